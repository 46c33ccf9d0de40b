"""Differences between the supported releases of Transformers, and messages on other releases."""

import configparser
import copy
import importlib.metadata
import inspect
import runpy
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from tiny_pali3 import tiny_batch as pali3_batch
from tiny_pali3 import tiny_pali3
from tiny_paligemma import tiny_batch, tiny_paligemma, tiny_paligemma_processor
from transformers.models.paligemma.modeling_paligemma import PaliGemmaForConditionalGeneration as Stock
from transformers.models.t5.modeling_t5 import T5Stack

from openpali import _support
from openpali.data.files.config import ConfigError
from openpali.modeling import transformers_versions
from openpali.modeling.transformers_versions import CACHE, NEWEST, OLDEST, image_tokens_of, peft_refusal
from openpali.recipes.start.adapters import AdapterArguments

SETUP = configparser.ConfigParser(interpolation=None)
SETUP.read(Path(__file__).parents[2] / "setup.cfg", "utf-8")
REQUIRED = [Requirement(line) for line in SETUP["options"]["install_requires"].strip().splitlines()]
BOUNDS = {requirement.name: requirement.specifier for requirement in REQUIRED}


@pytest.fixture(params=["paligemma", "pali3"])
def model_and_prompt(request, tiny_tokenizer):
    if request.param == "pali3":
        model, batch = tiny_pali3("t5"), pali3_batch()
        batch |= {"decoder_input_ids": torch.zeros(2, 1, dtype=torch.long)}
    else:
        processor = tiny_paligemma_processor(tiny_tokenizer)
        model, batch = tiny_paligemma("gemma2", processor), dict(tiny_batch(processor))
    batch.pop("labels")
    return model, batch


def test_forwards_of_transformers_have_the_name_we_say():
    for forward in (Stock.forward, T5Stack.forward):
        assert CACHE in inspect.signature(inspect.unwrap(forward)).parameters


def test_the_bounds_of_setup_are_the_releases_of_the_code():
    bounds = BOUNDS["transformers"]
    assert bounds == SpecifierSet(f">={OLDEST[0]}.{OLDEST[1]},<{NEWEST[0]}.{NEWEST[1] + 1}")
    assert importlib.metadata.version("transformers") in bounds


def test_both_names_are_taken_and_both_can_be_read(model_and_prompt):
    model, batch = model_and_prompt
    with torch.no_grad():
        first = model(**batch, use_cache=True)
        assert first.cache is first.past_key_values is first["cache"] is first["past_key_values"]
        assert first.cache.get_seq_length() > 0
        name = "decoder_input_ids" if model.config.is_encoder_decoder else "input_ids"
        following = {name: first.logits[:, -1:].argmax(-1), "use_cache": True}
        if model.config.is_encoder_decoder:
            following |= {"encoder_outputs": (first.encoder_last_hidden_state,)}
            following |= {"attention_mask": batch["attention_mask"]}
        found = [
            model(**following, **{key: copy.deepcopy(first.cache)}).logits for key in ("cache", "past_key_values")
        ]
        assert torch.equal(*found)
        with pytest.raises(ValueError, match="two names of one argument"):
            model(**following, cache=first.cache, past_key_values=first.cache)


def test_outputs_of_paligemma_hold_its_image_tokens(tiny_tokenizer):
    processor = tiny_paligemma_processor(tiny_tokenizer)
    model, batch = tiny_paligemma("gemma", processor), dict(tiny_batch(processor))
    with torch.no_grad():
        with_labels = image_tokens_of(model(**batch))
        batch.pop("labels")
        torch.testing.assert_close(with_labels, image_tokens_of(model(**batch)))
    assert with_labels.shape == (4, 4, 16)


def test_an_older_release_is_refused_in_one_sentence(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "5.22.2")
    with pytest.raises(ImportError) as refused:
        runpy.run_path(transformers_versions.__file__)
    assert "\n" not in str(refused.value)
    assert "5.22.2" in str(refused.value)
    assert "pip install" in str(refused.value)


@pytest.mark.parametrize("name", ["torch", "transformers", "peft"])
def test_another_release_is_named_at_import(name, monkeypatch, caplog):
    installed = _support.version
    assert _support.unsupported() == []
    monkeypatch.setattr(_support, "version", lambda package: "99.1.0" if package == name else installed(package))
    _support.warn_unsupported()
    (line,) = caplog.messages
    assert line.startswith(f"openpali supports {name}")
    assert "99.1.0" in line
    assert f"{name}{BOUNDS[name]}," in line


def test_peft_that_transformers_refuses_is_one_line(monkeypatch):
    from transformers.integrations import peft

    monkeypatch.setattr(peft, "MIN_PEFT_VERSION", "99.0")
    assert "peft 99.0" in str(peft_refusal())
    with pytest.raises(ConfigError, match="adapters: Transformers") as refused:
        AdapterArguments(peft="lora")
    assert "\n" not in str(refused.value)
    AdapterArguments(peft="none")
