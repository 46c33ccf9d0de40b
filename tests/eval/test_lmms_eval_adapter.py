"""The adapter answers lmms-eval's requests as our own evaluation does.

lmms-eval wants other versions of some packages than ours, so that it is not among the extras: where it is missing, the
four names of it that the adapter uses are stood in for here.
"""

import configparser
import importlib
import inspect
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_adapters import FAMILIES, save_checkpoint

import openpali.recipes
from openpali.data.example import Example
from openpali.eval.answering.decoding import generate
from openpali.eval.answering.load_model import load_model

ROOT = Path(openpali.recipes.__file__).parents[1]
QUESTIONS = ["what is this", "detect dog and two green cats", "caption en"]
INSTRUCTION = "\nAnswer the question using a single word or phrase."


class Lmms:
    """lmms-eval's interface of a model."""

    def __init__(self) -> None:
        self.cache_hook = SimpleNamespace(add_partial=lambda *given: None)
        self.task_dict: dict[str, Any] = {}


@dataclass(frozen=True)
class Manifest:
    """lmms-eval's entry of a model."""

    model_id: str
    simple_class_path: str | None = None


@pytest.fixture
def adapter(monkeypatch):
    """The module, with lmms-eval or with the stand-in."""
    try:
        importlib.import_module("lmms_eval.models.registry_v2")
    except ImportError:
        for name in ("lmms_eval", "lmms_eval.api", "lmms_eval.models"):
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        for name, given in (("api.model", {"lmms": Lmms}), ("models.registry_v2", {"ModelManifest": Manifest})):
            module = ModuleType(f"lmms_eval.{name}")
            vars(module).update(given)
            monkeypatch.setitem(sys.modules, f"lmms_eval.{name}", module)
    monkeypatch.delitem(sys.modules, "openpali.eval.lmms_eval_adapter", raising=False)
    return importlib.import_module("openpali.eval.lmms_eval_adapter")


def image(number: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (20, 20, 3), dtype=np.uint8))


def visuals(record: dict[str, Any]) -> list[Any]:
    """A task's `doc_to_visual`."""
    return [record["image"]]


def requests(*middle: Any) -> list[SimpleNamespace]:
    """Of three records: question, what is between, and where the record is."""
    return [
        SimpleNamespace(args=(question + INSTRUCTION, *middle, visuals, index, "tiny", "test"))
        for index, question in enumerate(QUESTIONS)
    ]


@pytest.fixture
def models(adapter, tiny_tokenizer, tmp_path):
    """Makes the adapter's model of a family."""

    def make(family: str, **options: Any) -> Any:
        folder = save_checkpoint(family, tiny_tokenizer, tmp_path / family)
        made = adapter.Openpali(pretrained=str(folder), device="cpu", **options)
        made.task_dict["tiny"] = {"test": [{"image": image(index)} for index in range(len(QUESTIONS))]}
        return made

    return make


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_those_of_our_evaluation(models, family, tmp_path):
    made = models(family, prompt="answer en {}", first_line=True, batch_size="2")
    found = made.generate_until(requests({"max_new_tokens": 6, "until": ["\n\n"]}))
    model, processor = load_model(str(tmp_path / family), "cpu")
    examples = [Example("", "", (image(i),), f"answer en {question}") for i, question in enumerate(QUESTIONS)]
    assert found == generate(model, processor, examples, 2, 6, progress=False)
    assert len(set(found)) > 1


@pytest.mark.parametrize("family", FAMILIES)
def test_the_greedy_answer_has_the_loss_of_generation(models, family):
    """The only answers that are greedy are those that the model gives itself, which a random model rarely ends."""
    made = models(family, first_line=True)
    losses = made.loglikelihood(requests("a dog"))
    by_function = made.loglikelihood(requests(lambda record: "a dog"))
    assert losses == by_function
    assert [greedy for _, greedy in losses] == [False] * 3
    example = made.example(QUESTIONS[0], visuals({"image": image(0)}), "a dog")
    batch = made.processor(
        images=[list(example.images)], text=[example.prefix], suffix=[example.suffix], return_tensors="pt"
    )
    with torch.no_grad():
        expected = float(made.model(**batch).loss)
    assert losses[0][0] == pytest.approx(expected, rel=1e-4)  # a batch of one with and without padding


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_is_greedy_if_every_token_is_the_likeliest(models, family):
    made = models(family)
    example = made.example(QUESTIONS[0], [image(0)], "a dog")
    forward = made.model.forward

    def certain(**batch: Any) -> Any:
        found = forward(**batch)
        labels = batch["labels"].clamp(min=0)
        if not made.model.config.is_encoder_decoder:
            labels = labels.roll(-1, dims=1)
        found.logits = torch.nn.functional.one_hot(labels, found.logits.shape[-1]).float()
        return found

    made.model.forward = certain
    assert made.score(example)[1]


def test_ends_of_answers(adapter):
    assert adapter.cut("a dog. A cat\n", [".", ""]) == "a dog"
    assert adapter.cut(" a dog ", None) == "a dog"
    assert adapter.cut("a dog", "d") == "a"


def test_what_it_cannot_do_is_said(models, adapter):
    made = models("pali3")
    with pytest.raises(ValueError, match=r"openpali reads images, and this task has str: clip\.mp4"):
        made.example("what is this", ["clip.mp4"])
    with pytest.raises(NotImplementedError, match="hold no conversations"):
        made.generate_until_multi_round([])
    with pytest.raises(ValueError, match="it has no {}"):
        adapter.Openpali(pretrained="nowhere", prompt="answer en")


def test_the_entry_point_and_the_command_of_the_page_name_what_is_there(adapter):
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", "utf-8")
    name, _, target = setup["options.entry_points"]["lmms_eval.models"].strip().partition(" = ")
    module, _, manifest = target.partition(":")
    assert module == adapter.__name__
    found = getattr(adapter, manifest)
    assert found.model_id == name == "openpali"
    assert found.simple_class_path == f"{module}.Openpali"
    page = (ROOT / "docs" / "evaluation.md").read_text("utf-8")
    (command,) = re.findall(r"^lmms-eval .*", page, re.MULTILINE)
    words = shlex.split(command)
    assert words[words.index("--model") + 1] == name
    given = [pair.partition("=")[0] for pair in words[words.index("--model_args") + 1].split(",")]
    assert set(given) <= set(inspect.signature(adapter.Openpali).parameters)
