"""The optimizer that a configuration names is the one that trains."""

from pathlib import Path

import pytest
import torch
from tiny_run import tiny_run

from openpali.data.files.config import ConfigError
from openpali.recipes.denoise import DenoiseArguments, DenoiseRun, parse
from openpali.recipes.training.adafactor import Adafactor

ADAFACTOR = {"optim": "adafactor", "optim_args": "momentum=0.8,min_dim_size_to_factor=4"}


def chosen(optimizer) -> torch.optim.Optimizer:
    return optimizer.optimizer


def test_adafactor_is_the_one_of_the_papers(tmp_path):
    optimizer = chosen(tiny_run(output_dir=str(tmp_path), max_steps=1, **ADAFACTOR).optimizer)
    assert type(optimizer) is Adafactor
    assert {(group["momentum"], group["min_dim_size_to_factor"]) for group in optimizer.param_groups} == {(0.8, 4)}
    assert any("short_means" in state for state in optimizer.state.values())


def test_anything_else_is_transformers_choice(tmp_path):
    assert type(chosen(tiny_run(output_dir=str(tmp_path), max_steps=1).optimizer)) is torch.optim.AdamW


def test_unknown_options_of_adafactor_are_named(tmp_path):
    with pytest.raises(ConfigError, match="no option 'momentun'.*momentum"):
        tiny_run(output_dir=str(tmp_path), max_steps=1, optim="adafactor", optim_args="momentun=0.8")


def test_shipped_ul2_configuration_selects_it(tmp_path):
    _, run = parse(
        [DenoiseArguments, DenoiseRun], ["--config", "denoise/ul2-3b", "--use_cpu", "true", "--bf16", "false"]
    )
    assert run.optim == "adafactor"
    assert Path(run.output_dir).name == "ul2-3b"
