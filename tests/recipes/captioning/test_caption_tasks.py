"""Tasks of captioners: their prompts, their shares, and texts that are too long."""

import random
import re
from types import SimpleNamespace
from typing import Any

import pytest

from openpali.data.files.config import ConfigError
from openpali.data.sources import load_source
from openpali.modeling.captioner.configuration_captioner import CaptionDecoderConfig
from openpali.recipes.captioning.batches import CAUSAL, CaptionInputs, DrawnTask
from openpali.recipes.captioning.tasks import LOCATION_TASKS, check_shares, location_task, report_cut

BOX = r"(<loc[0-9]{4}>){4}"
EXPECTED = {
    "caption": (r"caption en", r"\w+"),
    "refer": (r"refer .+", BOX),
    "grounded_caption": (rf"caption {BOX}", r"\w+"),
}


@pytest.fixture(scope="module")
def examples():
    source = load_source({"name": "emoji", "size": 32, "concepts": 4, "objects": [1, 1], "length": 5})
    tasks = {name: DrawnTask(location_task(name, ["en"])) for name in LOCATION_TASKS}
    return {name: [task.example(source[i], random.Random(i)) for i in range(5)] for name, task in tasks.items()}


@pytest.mark.parametrize("name", LOCATION_TASKS)
def test_prompts_are_those_of_the_later_stages(name, examples):
    prompt, text = EXPECTED[name]
    for example in examples[name]:
        assert re.fullmatch(prompt, example.prefix)
        assert re.match(text, example.suffix)
        assert example.task == name


def test_shares():
    assert check_shares({"caption": 2, "refer": 0, "grounded_caption": 0.5}) == {"caption": 2, "grounded_caption": 0.5}
    assert check_shares({}) == {}
    with pytest.raises(ConfigError, match="the share of refer is a number from 0 up, not True"):
        check_shares({"refer": True})


def test_texts_that_are_cut_are_told(examples, tiny_tokenizer):
    said: list[str] = []
    run: Any = SimpleNamespace(say=said.append)
    inputs = CaptionInputs(tiny_tokenizer, CaptionDecoderConfig(vocab_size=len(tiny_tokenizer)), CAUSAL)
    report_cut(inputs, examples["refer"], run)
    assert said == []
    inputs = CaptionInputs(tiny_tokenizer, inputs.config, CAUSAL, 4)
    report_cut(inputs, examples["refer"], run)
    assert re.match(r"Warning: 5 of 5 validation texts are longer than text_length=4 tokens .* 'refer ", said[0])
