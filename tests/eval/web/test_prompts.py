from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from openpali.eval.web.prompts import CAPTION, COLOUR, COUNT, DETECT, QUESTION, SEGMENT, TEXT, buttons_for

ALWAYS = [CAPTION, QUESTION, COUNT, COLOUR, TEXT]


def model(kind):
    return SimpleNamespace(config=SimpleNamespace(model_type=kind))


def processor(tokenizer):
    return SimpleNamespace(tokenizer=tokenizer)


def test_a_tokenizer_with_locations_and_segments_has_every_button(tiny_tokenizer):
    for kind in ("pali3", "paligemma"):
        assert buttons_for(model(kind), processor(tiny_tokenizer)) == [*ALWAYS, DETECT, SEGMENT]  # type: ignore[arg-type]


@pytest.mark.parametrize(("prefix", "count", "more"), [("loc", 1023, []), ("loc", 1024, [DETECT])])
def test_boxes_and_masks_need_all_their_tokens(prefix, count, more):
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, "a")))
    words.add_tokens([f"<{prefix}{i:04d}>" for i in range(count)])
    assert buttons_for(model("paligemma"), processor(words)) == [*ALWAYS, *more]  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "more"), [("florence2", [DETECT, SEGMENT]), ("kosmos-2", [DETECT]), ("blip-2", [])])
def test_models_with_a_format_of_their_own(kind, more):
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, "a")))
    assert buttons_for(model(kind), processor(words)) == [*ALWAYS, *more]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("button", "before", "prompt"),
    [
        (DETECT, "", "detect dog"),
        (DETECT, "caption en", "detect dog"),
        (SEGMENT, "caption en\ndetect cat ; red bus", "segment cat ; red bus"),
        (COUNT, "segment cat ; red bus", "answer en how many cats are there?"),
        (COLOUR, "detect cat\n", "answer en which colour is the cat?"),
        (TEXT, "detect cat", "ocr"),
    ],
)
def test_a_button_stays_with_the_objects_of_the_prompt(button, before, prompt):
    assert button.prompt_after(before) == prompt


def test_braces_in_a_prompt_stay():
    assert DETECT.prompt_after("detect {thing}") == "detect {thing}"
