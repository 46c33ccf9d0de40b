"""The page of aspect ratios and lengths: its commands run with a step each, its code as it stands."""

import page_folders as given
import pytest
from page_blocks import QUICK, ROOT, blocks, run_command, run_python
from transformers import AutoModel, Siglip2Model

from openpali.modeling.auto import load_processor

PAGE = ROOT / "docs" / "guide" / "aspect-ratio.md"


def test_what_the_page_shows_happens(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given.siglip("google/siglip-base-patch16-224")
    # a step on tiny data
    quick = QUICK | {"eval.encoders": {"limit": 4, "device": "cpu", "shots": 1, "tasks": "retrieval"}}
    quick["recipes.pretrain"] = QUICK["recipes.pretrain"] | {"component_warmup": "{}", "evaluate": "caption"}
    quick["recipes.pretrain"] |= {"best_on": "caption"}
    values, names = [], {}
    for block in blocks(PAGE):
        for command in block.commands():
            run_command(command, quick)
        if block.language == "python":
            values.append(run_python(block, names))
    assert values == [(1, 128), [[3, 9]], [6 * 16, 100], 16]
    assert load_processor("outputs/what-naflex").image_seq_length == 144
    assert type(AutoModel.from_pretrained("outputs/siglip-naflex")) is Siglip2Model
    assert AutoModel.from_pretrained("outputs/flexible-12").config.vision_config.patch_size == 12


def test_numbers_of_the_page():
    from openpali.data.images.naflex import target_size

    text = PAGE.read_text("utf-8")
    assert "14 rows of 18: 252 tokens" in text
    assert target_size(480, 640, 16, 256) == (14 * 16, 18 * 16)


@pytest.mark.parametrize("option", ["naflex", "sequence_lengths", "patch_size", "patch_sizes"])
def test_options_are_there(option):
    from dataclasses import fields

    from openpali.recipes.contrastive import ContrastiveArguments

    assert option in {field.name for field in fields(ContrastiveArguments)}
    assert f"`{option}" in PAGE.read_text("utf-8")
