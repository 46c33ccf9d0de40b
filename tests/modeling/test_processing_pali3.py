import logging
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, AutoTokenizer, pipeline

from openpali import Pali3Processor
from openpali.modeling.processing_tokenizer import without_limits

IMAGE_TOKENS, SIDE = 4, 16


def shaded(shade: int) -> Image.Image:
    return Image.new("RGB", (30, 20), (shade, shade, shade))


def shades(batch) -> list[int]:
    """The grey value of every image in the batch."""
    return [round((pixels.mean().item() + 1) * 127.5) for pixels in batch["pixel_values"]]


@pytest.fixture
def process(tiny_processor):
    def call(*args, **kwargs):
        return tiny_processor(*args, return_tensors="pt", **kwargs)

    return call


def test_one_image_and_one_text(process, tiny_processor):
    batch = process(shaded(50), "a red dog", suffix="two cats")
    words = tiny_processor.tokenizer("a red dog")["input_ids"]
    assert words[-1] == tiny_processor.tokenizer.eos_token_id
    assert batch["input_ids"].tolist() == [[tiny_processor.image_token_id] * IMAGE_TOKENS + words]
    assert batch["attention_mask"].tolist() == [[1] * (IMAGE_TOKENS + len(words))]
    assert batch["labels"].tolist() == [tiny_processor.tokenizer("two cats")["input_ids"]]
    assert batch["pixel_values"].shape == (1, 3, SIDE, SIDE)
    assert batch["pixel_values"].dtype == torch.float32
    assert shades(batch) == [50]


def test_pixels_are_between_minus_one_and_one(process):
    noise = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    noise[:20], noise[20:] = 0, 255
    values = process(noise, "a")["pixel_values"]
    assert values.min() == -1
    assert values.max() == 1


def test_every_form_of_image_gives_the_same_pixels(process, tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    image = Image.fromarray(array)
    path = tmp_path / "image.png"
    image.save(path)
    expected = torch.tensor(array).permute(2, 0, 1) / 127.5 - 1
    for form in (image, array, str(path), path, torch.tensor(array).permute(2, 0, 1)):
        torch.testing.assert_close(process(form, "a")["pixel_values"][0], expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(process([form], ["a"])["pixel_values"][0], expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(process([[form]], ["a"])["pixel_values"][0], expected, rtol=0, atol=1e-6)


def test_images_are_fetched_by_url(process, tmp_path):
    shaded(70).save(tmp_path / "image.png")
    handler = partial(QuietHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/image.png"
        assert shades(process([url, url], ["a", "b"])) == [70, 70]
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_every_mode_of_image_is_read_as_colours(process):
    images = [shaded(80).convert(mode) for mode in ("L", "RGBA", "P", "LA", "1")]
    assert process(images, ["a"] * 5)["pixel_values"].shape == (5, 3, SIDE, SIDE)


def test_lists_of_images_belong_to_their_texts(process, tiny_processor):
    image = tiny_processor.image_token_id
    flat = process([shaded(10), shaded(20)], ["a", "a red dog"])
    assert (flat["input_ids"] == image).sum(1).tolist() == [IMAGE_TOKENS, IMAGE_TOKENS]
    assert shades(flat) == [10, 20]

    nested = process([[shaded(10), shaded(20)], [], [shaded(30)]], ["a", "b", "c"])
    assert (nested["input_ids"] == image).sum(1).tolist() == [2 * IMAGE_TOKENS, 0, IMAGE_TOKENS]
    assert shades(nested) == [10, 20, 30]

    single = process([shaded(10), shaded(20), shaded(30)], "a")
    assert (single["input_ids"] == image).sum(1).tolist() == [3 * IMAGE_TOKENS]


def test_a_video_is_its_frames_in_order(process, tiny_processor):
    frames = [[shaded(10), shaded(20), shaded(30)], [shaded(40)]]
    batch = process(videos=frames, text=["a", "b"])
    assert shades(batch) == [10, 20, 30, 40]
    assert (batch["input_ids"] == tiny_processor.image_token_id).sum(1).tolist() == [3 * IMAGE_TOKENS, IMAGE_TOKENS]
    array = np.stack([np.asarray(frame) for frame in frames[0]])
    one = process(videos=[list(array)], text=["a"])
    assert shades(one) == [10, 20, 30]


def test_placeholders_in_the_text_mark_the_places(process, tiny_processor):
    ids = process([shaded(1), shaded(2)], "a <image>dog<image>")["input_ids"][0].tolist()
    image = tiny_processor.image_token_id
    a, dog = (tiny_processor.tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("a ", "dog"))
    assert ids == [*a, *[image] * IMAGE_TOKENS, *dog, *[image] * IMAGE_TOKENS, tiny_processor.tokenizer.eos_token_id]
    flat = process([shaded(1), shaded(2), shaded(3)], ["<image>a", "<image><image>b"])
    assert (flat["input_ids"] == image).sum(1).tolist() == [IMAGE_TOKENS, 2 * IMAGE_TOKENS]


def test_labels_come_only_with_a_suffix_and_are_padded(process, tiny_processor):
    assert "labels" not in process(shaded(1), "a")
    batch = process([shaded(1)] * 2, ["a", "a"], suffix=["dog", "two green cats and a dog"])
    labels = batch["labels"]
    length = (labels[0] != -100).sum()
    assert labels[0, :length].tolist() == tiny_processor.tokenizer("dog")["input_ids"]
    assert set(labels[0, length:].tolist()) == {-100}
    assert (labels[1] != -100).all()
    # the suffix is no part of the encoder's input
    assert torch.equal(batch["input_ids"], process([shaded(1)] * 2, ["a", "a"])["input_ids"])


def test_an_empty_suffix_is_only_the_end(process, tiny_processor):
    assert process(shaded(1), "a", suffix="")["labels"].tolist() == [[tiny_processor.tokenizer.eos_token_id]]


def test_text_alone_and_images_alone(process, tiny_processor):
    batch = process(text=["a", "b"])
    assert "pixel_values" not in batch
    assert tiny_processor.image_token_id not in batch["input_ids"]
    alone = process(images=[shaded(1), shaded(2)])
    end = tiny_processor.tokenizer.eos_token_id
    assert alone["input_ids"].tolist() == [[tiny_processor.image_token_id] * IMAGE_TOKENS + [end]] * 2


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_goes_to_the_side_asked_for(process, tiny_processor, side):
    texts = ["a", "two green cats"]
    batch = process([shaded(1)] * 2, texts, padding_side=side, suffix=["a", "two green cats"])
    ids, mask = batch["input_ids"][0], batch["attention_mask"][0]
    width, length = len(ids), int(mask.sum())
    assert length < width
    inside = slice(width - length, None) if side == "left" else slice(0, length)
    assert ids[inside].tolist() == process(shaded(1), "a")["input_ids"][0].tolist()
    assert mask[inside].all()
    assert set(ids[mask == 0].tolist()) == {tiny_processor.tokenizer.pad_token_id}
    # the decoder's target always starts at the beginning
    assert batch["labels"][0, 0] != -100


def test_the_tokenizers_own_padding_side_is_the_default(process, tiny_processor):
    tiny_processor.tokenizer.padding_side = "left"
    try:
        assert process([shaded(1)] * 2, ["a", "two green cats"])["attention_mask"][0, 0] == 0
    finally:
        tiny_processor.tokenizer.padding_side = "right"


def test_padding_to_limits_and_multiples(process):
    batch = process(shaded(1), "a", suffix="b", padding="max_length", max_length=10, suffix_max_length=6)
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (1, IMAGE_TOKENS + 10)
    assert batch["labels"].shape == (1, 6)
    assert process(shaded(1), "a", pad_to_multiple_of=8)["input_ids"].shape[1] == 8


def test_without_padding_rows_keep_their_lengths(tiny_processor):
    batch = tiny_processor([shaded(1)] * 2, ["a", "two green cats"], suffix=["a", "two green cats"], padding=False)
    assert len(batch["input_ids"][0]) < len(batch["input_ids"][1])
    assert len(batch["labels"][0]) < len(batch["labels"][1])
    assert [len(row) for row in batch["attention_mask"]] == [len(row) for row in batch["input_ids"]]


def test_truncation_keeps_images_and_end_warns_once_and_counts(process, tiny_processor, caplog):
    long = "two green cats and a red dog"
    end = tiny_processor.tokenizer.eos_token_id
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            batch = process([shaded(1)] * 2, [long, "a"], suffix=[long, long], max_length=5, suffix_max_length=4)
    ids = batch["input_ids"][0]
    words = tiny_processor.tokenizer(long)["input_ids"]
    assert ids.tolist() == [tiny_processor.image_token_id] * IMAGE_TOKENS + words[:4] + [end]
    assert batch["labels"][0].tolist() == words[:4]
    assert tiny_processor.truncation_counts == {"prefix": 2, "suffix": 4}
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("openpali")]
    assert len(messages) == 2
    assert f"a prefix of {len(words)} tokens was cut to the limit of 5" in messages[0]
    assert f"a suffix of {len(words)} tokens was cut to the limit of 4" in messages[1]


def test_what_does_not_fit_together_is_refused(process):
    with pytest.raises(ValueError, match="2 texts but images for 3"):
        process([shaded(1)] * 3, ["a", "b"])
    with pytest.raises(ValueError, match="2 <image> placeholders but 1 images in '<image>a<image>'"):
        process(shaded(1), "<image>a<image>")
    with pytest.raises(ValueError, match="1 texts but 2 suffixes"):
        process(shaded(1), "a", suffix=["b", "c"])
    with pytest.raises(ValueError, match="neither text nor images"):
        process()


def test_a_tokenizer_without_image_token_is_refused(tiny_processor):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), unk_token="<unk>")
    with pytest.raises(ValueError, match="the tokenizer TokenizersBackend has no <image> token"):
        Pali3Processor(tiny_processor.image_processor, tokenizer)


def test_saved_and_loaded_is_the_same(tiny_processor, tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    tiny_processor.save_pretrained(tmp_path)
    loaded: Any = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is type(tiny_processor)
    assert loaded.image_seq_length == IMAGE_TOKENS
    assert loaded.chat_template == tiny_processor.chat_template
    one, other = (p([shaded(9)], ["a"], suffix=["b"], return_tensors="pt") for p in (tiny_processor, loaded))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_decoding_keeps_locations_and_leaves_out_what_is_special(tiny_processor):
    text = "<loc0001><loc0002><loc0003><loc1023> dog ; <seg127>"
    ids = tiny_processor.tokenizer([text, "a"], padding=True)["input_ids"]
    ids[1] = [tiny_processor.image_token_id, *ids[1][:-1]]
    assert tiny_processor.batch_decode(ids, skip_special_tokens=True) == [text, "a"]
    assert tiny_processor.decode(ids[0], skip_special_tokens=True) == text


def test_both_forms_of_the_pipeline_answer_what_generate_does(tiny_model, tiny_processor, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    tiny_processor.save_pretrained(tmp_path)
    path = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(path)
    ask: Any = pipeline("image-text-to-text", model=str(tmp_path))
    options = {"max_new_tokens": 8, "return_full_text": False}
    plain = ask(images=str(path), text="what is this", **options)[0]["generated_text"]
    content = [{"type": "image", "url": str(path)}, {"type": "text", "text": "what is this"}]
    messages = ask(text=[{"role": "user", "content": content}], **options)[0]["generated_text"]
    batch = tiny_processor(Image.open(path), "what is this", return_tensors="pt")
    ids = tiny_model.generate(**batch, max_new_tokens=8)
    expected = tiny_processor.batch_decode(ids, skip_special_tokens=True)[0]
    assert plain == messages == expected
    assert expected
    several = ask(images=[[str(path)], [str(path)]], text=["what is this", "caption en"], **options)
    assert several[0]["generated_text"] == expected


def test_limits_of_an_earlier_use_do_not_cut_prompts(tiny_processor, tmp_path):
    """A tokenizer that was saved after SigLIP's padded captions."""
    tokenizer = tiny_processor.tokenizer
    tokenizer(["a"], padding="max_length", max_length=3, truncation=True)
    tokenizer.save_pretrained(tmp_path)
    prompt = "a red dog two cats a red dog"
    cut, whole = (AutoTokenizer.from_pretrained(tmp_path) for _ in range(2))
    lengths = {}
    for name, loaded in {"cut": cut, "whole": without_limits(whole)}.items():
        processor = Pali3Processor(tiny_processor.image_processor, loaded, image_seq_length=IMAGE_TOKENS)
        lengths[name] = len(processor(text=prompt)["input_ids"][0])
    # the first shows that the file did hold limits
    assert lengths["cut"] == 3
    assert lengths["whole"] == len(tokenizer(prompt)["input_ids"]) > 3
