import html
import re

import pytest
import torch
from given_answers import BOX, gives, with_tokens
from image_bytes import png_header
from PIL import Image
from tiny_mask_vqvae import tiny

from openpali.eval.answering.decoding import Answer
from openpali.eval.answering.image_features import ImageFeatures
from openpali.eval.predicting.objects import MaskReader
from openpali.eval.web.answerer import Answerer, with_confidence

NO_MASKS = "openpali.data.masks.mask_tokenizer.DEFAULT_CODEC"


@pytest.fixture
def images(tmp_path):
    """Paths of two images."""
    paths = [str(tmp_path / name) for name in ("a.png", "b.png")]
    for path, colour in zip(paths, ("red", "lime")):
        Image.new("RGB", (200, 100), colour).save(path)
    return paths


@pytest.fixture
def tiny_answerer(tiny_model, tiny_processor):
    return Answerer(tiny_model, tiny_processor, MaskReader(None, "model", needed=False), batch_size=2)


def texts(answerer, paths, prompts="caption en", together=False, beams=1, length=4):
    """What stands on the page at the end, without tags, line by line."""
    *_, last = answerer.answer(paths, prompts, together, beams, length)
    plain = html.unescape(re.sub(r"<(?!loc|seg)[^>]*>", " ", re.sub(r"<img[^>]*>", "", last)))
    return [" ".join(line.split()) for line in plain.splitlines() if line.strip()]


def test_boxes_and_masks_have_their_confidences(images, monkeypatch):
    codec = tiny(image_size=16, codebook_size=128).eval()
    masks = torch.zeros(1, 100, 200, dtype=torch.bool)
    masks[0, 10:60, 20:120] = True
    answerer = gives(monkeypatch, with_tokens(f"{BOX} dog ; {codec.write(masks, ['a cat'])} ; nonsense"), codec)
    drawn = []
    monkeypatch.setattr(
        "openpali.eval.web.answerer.draw_predictions", lambda image, found, longest: drawn.append(found) or image
    )
    lines = texts(answerer, images[:1], "detect dog")
    assert lines[:2] == ["detect dog", "a.png, 2 boxes and 1 mask"]
    assert "dog 0.36 100 to 200 25 to 75" in lines
    pixels = int(codec.read(codec.write(masks, ["a cat"]), 100, 200).masks.sum())
    assert f"a cat 0.22 20 to 120 10 to 60 {pixels:,} px" in lines
    assert "Not read: “nonsense”, since it does not begin with location tokens." in lines
    assert lines[-1].startswith("1 answer in ")
    assert [one["label"] for one in drawn[0]] == ["dog 0.36", "a cat 0.22"]
    assert drawn[0][1]["mask"] is not None


def test_a_label_without_a_name_or_a_confidence():
    assert with_confidence({"label": "", "confidence": 0.5}) == "0.50"
    assert with_confidence({"label": "dog", "confidence": None}) == "dog"


def test_text_of_a_model_is_no_html(images, monkeypatch):
    answerer = gives(monkeypatch, Answer("<script>alert(1)</script> {{ 1 }} ${value}"))
    *_, page = answerer.answer(images[:1], "<b>caption</b>", False, 1, 4)
    assert "<script>" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; {{ 1 }} ${value}" in page


def test_masks_that_cannot_be_read_are_told_on_the_page(images, monkeypatch, capsys):
    monkeypatch.setattr(NO_MASKS, "outputs/nowhere")
    answerer = gives(monkeypatch, Answer(f"{BOX}{'<seg001>' * 16} dog"))
    for _ in range(2):
        first = texts(answerer, images[:1], "segment dog")[0]
        assert first.startswith("masks are left out, since there is no mask codec at outputs/nowhere")
    assert capsys.readouterr().err.count("openpali demo: masks are left out") == 1


def test_each_image_is_encoded_once_for_all_questions(images, tiny_answerer, monkeypatch):
    encoded = []
    encode = ImageFeatures.encode
    monkeypatch.setattr(
        ImageFeatures, "encode", lambda self, *args: encoded.append(len(args[0])) or encode(self, *args)
    )
    lines = texts(tiny_answerer, images, "caption en\nwhat is this\n\ncaption en")
    assert sum(encoded) == 2
    heads = [line for line in lines if line in ("caption en", "what is this")]
    assert heads == ["caption en", "what is this"] * 2
    alone = texts(tiny_answerer, images[1:], "what is this")
    assert alone[2] == lines[lines.index("b.png", lines.index("b.png") + 1) + 1]


def test_answers_appear_batch_by_batch(images, tiny_answerer):
    pages = list(tiny_answerer.answer([*images, images[0]], "caption en", False, 1, 4))
    assert [page.count("<article>") for page in pages] == [2, 3, 3]
    assert [" s</p>" in page for page in pages] == [False, False, True]


def test_a_prompt_about_all_images_together_and_beams(images, tiny_answerer):
    lines = texts(tiny_answerer, images, "what is this", together=True, beams=3)
    assert lines[:2] == ["what is this", "a.png, b.png"]
    assert lines[-1].startswith("1 answer in ")


def test_images_that_cannot_be_used_are_named_and_the_others_answered(images, tiny_answerer, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    # the head alone: more than that is not read
    (tmp_path / "bomb.png").write_bytes(png_header(60_000, 60_000))
    lines = texts(tiny_answerer, [str(tmp_path / "broken.png"), str(tmp_path / "bomb.png"), images[0]])
    assert lines[0].startswith("broken.png is not an image that can be read")
    assert lines[1].startswith("bomb.png is too large (3,600,000,000 pixels; at most 89,478,485 pixels)")
    assert lines[2:4] == ["caption en", "a.png"]


@pytest.mark.parametrize("together", [False, True])
def test_nothing_to_answer_and_too_much(images, tiny_answerer, tmp_path, together):
    assert texts(tiny_answerer, [], together=together) == ["there is no image: upload one, or choose an example"]
    many = "\n".join(map(str, range(200)))
    (line,) = texts(tiny_answerer, images, many, together)
    assert line.startswith("2 images and 200 prompts are more than 256 answers: ask less at once")
    assert len(texts(tiny_answerer, [str(tmp_path / "missing.png")], together=together)) == 1


@pytest.mark.parametrize("beams", [1, 3])
def test_an_answer_that_takes_too_long_is_stopped_and_the_next_one_is_not(images, tiny_answerer, beams):
    tiny_answerer.seconds = 1e-9
    (line,) = texts(tiny_answerer, images, beams=beams)
    assert line.startswith("stopped after 1e-09 s: ask less at once")
    tiny_answerer.seconds = 60
    assert texts(tiny_answerer, images, beams=beams)[-1].startswith("2 answers in ")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("florence2 takes one image,\nand there are 2"), "florence2 takes one image, and there are 2"),
        (torch.OutOfMemoryError("no room"), "no room Take smaller batches, images or weights, or another --device."),
        (KeyError("key"), "no answer, by a fault of the program (KeyError): the terminal says more"),
    ],
)
def test_any_error_is_one_line_and_a_fault_keeps_its_traceback(images, monkeypatch, capsys, error, line):
    answerer = gives(monkeypatch, Answer("a dog"))

    def fails(*_):
        raise error

    monkeypatch.setattr("openpali.eval.web.answerer.answer_prompts", fails)
    assert texts(answerer, images) == [line]
    assert ("Traceback" in capsys.readouterr().err) == isinstance(error, KeyError)
