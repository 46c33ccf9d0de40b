from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import NamingTask, examples, tiny_llava, tiny_paligemma
from tiny_peers import PEERS, starting, tiny_chameleon, tiny_florence, tiny_idefics, tiny_instruct_blip, tiny_kosmos

from openpali.data.example import Box, Example
from openpali.data.masks.rle import decode_rle
from openpali.eval.answering.decoding import Answer, Token, encode, generate
from openpali.eval.answering.evaluate_task import evaluate_task, score_predictions
from openpali.eval.answering.predictions import prediction_row
from openpali.eval.prompts.florence import florence_prompt, read_florence
from openpali.eval.prompts.other_models import (
    ADAPTERS,
    chat_prompt,
    find_adapter,
    natural_prompt,
    prompt_format,
    read_kosmos,
)
from openpali.eval.prompts.request import PromptRequest, read_prompt

IMAGE = Image.new("RGB", (200, 100))
MASK = {"size": [100, 200], "counts": "0"}


def prompt(prefix, **more):
    return Example("x", "t", (IMAGE,), prefix, **more)


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("answer en what is this?", PromptRequest("answer", "what is this?")),
        ("answer zh-Hant  where\nis it", PromptRequest("answer", "where\nis it", "zh-Hant")),
        ("is there a dog?", PromptRequest("answer", "is there a dog?")),
        ("caption de", PromptRequest("caption", "", "de")),
        ("caption", PromptRequest("caption", "")),
        ("ocr", PromptRequest("ocr", "")),
        ("detect dog ; cat", PromptRequest("detect", "dog ; cat")),
        ("segment dog", PromptRequest("segment", "dog")),
        ("Question: a\nAnswer:", PromptRequest("other", "Question: a\nAnswer:")),
        ("captions of dogs", PromptRequest("other", "captions of dogs")),
    ],
)
def test_prompts_are_taken_apart(prefix, expected):
    assert read_prompt(prompt(prefix)) == expected


def test_a_sentence_that_means_an_object_is_known_by_its_task():
    assert read_prompt(prompt("the left dog", meta={"sentence": "the left dog"})) == PromptRequest(
        "refer", "the left dog"
    )


@pytest.mark.parametrize("name", PEERS)
def test_peers_answer_in_batches_as_they_do_alone(name):
    """Prompts of different kinds and lengths, so that something is padded."""
    model, processor = PEERS[name]()
    prefixes = ["answer en what is this?", "caption en", "detect dog", "what", "answer en one two three dog cat bus?"]
    data = [replace(one, prefix=prefix) for one, prefix in zip(examples(5), prefixes, strict=True)]
    together = generate(model, processor, data, 3, 6, progress=False)
    assert together == [generate(model, processor, [one], 1, 6, progress=False)[0] for one in data]
    assert len(set(together)) > 1
    assert processor.tokenizer.padding_side == "right"


@pytest.mark.parametrize("name", PEERS)
def test_answers_of_peers_do_not_hold_the_prompt_and_blank_images_are_shown(name):
    model, processor = PEERS[name]()
    model.eval()
    data = [replace(one, prefix="caption en") for one in examples(8)]
    inputs = encode(model, processor, data[:1], blank_images=False)
    ids = model.generate(**inputs, max_new_tokens=5, do_sample=False)[0]
    new = ids if model.config.is_encoder_decoder else ids[inputs["input_ids"].shape[1] :]
    text, _ = find_adapter(model, processor).read(processor, new, data[0])
    assert generate(model, processor, data[:1], 1, 5, progress=False) == [text]
    shown = encode(model, processor, data, False)["pixel_values"]
    assert shown.shape == encode(model, processor, data, True)["pixel_values"].shape
    assert not torch.equal(shown, encode(model, processor, data, True)["pixel_values"])


def test_each_family_has_its_own_prompts():
    question, caption = prompt("answer en what is this?"), prompt("caption de")
    words = {kind: adapter.write for kind, adapter in ADAPTERS.items()}
    processors = {"chameleon": tiny_chameleon()[1], "paligemma": tiny_paligemma()[1]}
    assert words["paligemma"](processors["paligemma"], question) == "<image>answer en what is this?"
    assert words["florence2"](None, question) == "<VQA>what is this?"
    assert words["florence2"](None, caption) == "<CAPTION>"
    short = "Answer with a word or a short phrase."
    assert words["chameleon"](processors["chameleon"], question) == f"what is this? {short}<image>"
    assert words["kosmos-2"](None, question) == "Question: what is this? Answer:"
    assert words["kosmos-2"](None, prompt("detect dog")) == "<grounding><phrase>dog</phrase>"
    assert words["blip-2"](None, question) == "Question: what is this? Answer:"
    assert words["blip-2"](None, caption) == ""
    assert words["instructblip"](None, question) == "Question: what is this? Short answer:"
    assert natural_prompt(caption) == "Describe the image in one sentence in German."
    assert natural_prompt(prompt("Question: a Options: b")) == "Question: a Options: b"
    assert chat_prompt(tiny_llava()[1], question) == f"<image> what is this? {short} answer"


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("detect dog", "<OPEN_VOCABULARY_DETECTION>dog"),
        ("detect dog ; cat", "<OD>"),
        ("segment dog", "<REFERRING_EXPRESSION_SEGMENTATION>dog"),
        ("ocr", "<OCR>"),
        ("Question: a", "<VQA>Question: a"),
        ("<MORE_DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>"),
        ("<CAPTION_TO_PHRASE_GROUNDING>a dog", "<CAPTION_TO_PHRASE_GROUNDING>a dog"),
    ],
)
def test_florence_has_a_token_for_each_task(prefix, expected):
    assert florence_prompt(None, prompt(prefix)) == expected


def test_florence_refers_by_box_or_by_mask():
    sentence = {"meta": {"sentence": "the dog"}}
    assert florence_prompt(None, prompt("the dog", **sentence)) == "<CAPTION_TO_PHRASE_GROUNDING>the dog"
    with_mask = prompt("the dog", masks=(MASK,), **sentence)
    assert florence_prompt(None, with_mask) == "<REFERRING_EXPRESSION_SEGMENTATION>the dog"


def florence_ids(processor, text):
    return torch.tensor(processor.tokenizer.convert_tokens_to_ids(["<bos>", *text.split(), "<eos>", "<pad>"]))


def test_florence_boxes_are_read_in_shares_of_the_image():
    """A coordinate is the centre of its bin; names that are not in the prompt are left out."""
    _, processor = tiny_florence()
    words = "dog <loc_100> <loc_200> <loc_300> <loc_400> cat <loc_0> <loc_0> <loc_900> <loc_900>"
    ids = florence_ids(processor, words)
    dog = {"box": pytest.approx([0.1005, 0.2005, 0.3005, 0.4005]), "label": "dog", "mask": None}
    cat = {"box": pytest.approx([0.0005, 0.0005, 0.9005, 0.9005]), "label": "cat", "mask": None}
    text, found = read_florence(processor, ids, prompt("detect Dog ; bus"))
    assert found == [dog]
    assert text == "dog<loc_100><loc_200><loc_300><loc_400> cat<loc_0><loc_0><loc_900><loc_900>"
    assert read_florence(processor, ids, prompt("detect dog ; cat"))[1] == [dog, cat]
    # open-vocabulary detection has one name, whatever the labels of its objects are
    assert [one["label"] for one in read_florence(processor, ids, prompt("detect bus"))[1]] == ["bus", "bus"]


def test_florence_polygons_become_masks_of_the_image():
    _, processor = tiny_florence()
    places = "<loc_0> <loc_0> <loc_500> <loc_0> <loc_500> <loc_500> <loc_0> <loc_500>"
    example = prompt("the dog", masks=(MASK,), meta={"sentence": "the dog"})
    _, found = read_florence(processor, florence_ids(processor, places), example)
    mask = decode_rle(found[0]["mask"])
    expected = np.zeros((100, 200), bool)
    expected[:50, :100] = True
    assert mask.shape == (100, 200)
    assert (mask ^ expected).sum() <= 150
    assert found[0]["box"] == pytest.approx([0, 0, 0.5, 0.5], abs=0.01)
    assert found[0]["label"] == ""
    # a line encloses nothing
    assert read_florence(processor, florence_ids(processor, "<loc_0> <loc_0> <loc_500> <loc_0>"), example)[1] == []


def test_florence_answers_in_words_have_no_boxes():
    _, processor = tiny_florence()
    ids = florence_ids(processor, "a dog")
    assert read_florence(processor, ids, prompt("caption en")) == ("a dog", None)
    assert read_florence(processor, ids, prompt("answer en what?")) == ("a dog", None)


def test_kosmos_boxes_belong_to_the_phrase_of_the_prompt():
    _, processor = tiny_kosmos()
    words = "<object><patch_index_0000><patch_index_1023></object>"
    ids = torch.tensor(processor.tokenizer(words, add_special_tokens=False)["input_ids"])
    _, found = read_kosmos(processor, ids, prompt("detect dog"))
    assert found == [{"box": [0.015625, 0.015625, 0.984375, 0.984375], "label": "dog", "mask": None}]
    plain = torch.tensor(processor.tokenizer("a dog", add_special_tokens=False)["input_ids"])
    assert read_kosmos(processor, plain, prompt("caption en")) == ("a dog", None)


@dataclass(frozen=True)
class Boxes(NamingTask):
    metric: str = "detection"
    metric_key: str = "f1"

    def prediction(self, text, example):
        return []

    def reference(self, example):
        return list(example.boxes)


def test_what_a_model_found_in_its_own_way_goes_to_the_metric():
    box = {"box": [0.1, 0.2, 0.3, 0.4], "label": "dog", "mask": None}
    example = prompt("detect dog", boxes=(Box(0.1, 0.2, 0.3, 0.4, "dog"),))
    answer = Answer("dog<loc_1>", [Token("dog", -1.0)], [box])
    row = prediction_row(0, example, Boxes(), answer)
    assert row["found"] == [box]
    assert row["predicted_boxes"] == row["prediction"] == [box | {"score": pytest.approx(np.exp(-1))}]
    assert score_predictions(Boxes(), [row]).metrics["f1"] == 1.0
    # a task about words has no use for them
    assert prediction_row(0, example, NamingTask(), answer)["prediction"] == "dog<loc_1>"


def test_florence_boxes_reach_the_score(monkeypatch):
    model, processor = tiny_florence()
    words = "dog <loc_100> <loc_200> <loc_300> <loc_400>"
    monkeypatch.setattr(model, "generate", lambda **options: florence_ids(processor, words)[None])
    example = prompt("detect dog", boxes=(Box(0.1, 0.2, 0.3, 0.4, "dog"),))
    result = evaluate_task(model, processor, [example], Boxes(), progress=False)
    assert result.metrics["f1"] == result.metrics["map"] == 1.0


def test_a_chat_template_with_a_start_token_gets_no_second_one():
    model, processor = tiny_idefics()
    starting(processor.tokenizer)
    assert processor.tokenizer("dog")["input_ids"][0] == processor.tokenizer.bos_token_id
    ids = encode(model, processor, [prompt("answer en what is this?")], False)["input_ids"][0].tolist()
    assert ids.count(processor.tokenizer.bos_token_id) == 1


def test_a_model_without_a_prompt_format_is_an_error_with_a_remedy():
    model, processor = tiny_llava()
    processor.chat_template = None
    with pytest.raises(
        ValueError, match="type 'llava': its processor has no chat template. Add its prompts to ADAPTERS"
    ):
        generate(model, processor, examples(1), 1, 4, progress=False)
    assert prompt_format("llava") == "chat"
    assert prompt_format("pali3") == prompt_format("paligemma") == "bare"
    assert prompt_format("florence2") == "florence2"


def test_two_images_are_an_error_where_a_model_takes_one():
    model, processor = tiny_instruct_blip()
    two = Example("two", "t", (IMAGE, IMAGE), "caption en")
    with pytest.raises(ValueError, match="instructblip takes one image, and example two has 2"):
        generate(model, processor, [two], 1, 4, progress=False)
