"""The guide's tables of memory are what the command beside them prints."""

import re

import pytest
from page_blocks import ROOT

from openpali.recipes.costs.gpu_table import MODELS, rows, table_heads
from openpali.recipes.costs.plan import plan_training
from openpali.recipes.costs.stage_costs import GB, stage_costs

pytestmark = pytest.mark.adapters
PAGE = (ROOT / "docs" / "guide" / "checkpoint.md").read_text("utf-8")
STAGES = {
    "PaliGemma 3B, 224 px": "paligemma/stage1-224",
    "PaliGemma 2 3B, 224 px": "paligemma/gemma2-stage1-224",
    "PaLI-3 5B, 812 px": "pali3/stage2-812",
}


@pytest.mark.parametrize("name", MODELS)
def test_what_fits_is_what_the_command_says(name):
    preset, sizes = MODELS[name]
    expected = [line for size in sizes for line in rows(name, preset, size)]
    assert [line for line in PAGE.splitlines() if line.startswith(f"| {name} |")] == expected
    assert "\n".join(table_heads()) in PAGE
    assert "`openpali costs --table`" in PAGE


@pytest.mark.parametrize("name", STAGES)
def test_stages_cost_what_the_page_says(name):
    costs, _ = stage_costs(plan_training(["--config", STAGES[name]]))
    held = costs.weight_bytes + costs.gradient_bytes + costs.optimizer_bytes
    flops = f"{costs.flops:.1e}".replace("e+", "e")
    kept = [f"{costs.example_bytes(checkpointing) / GB:.1f} GB" for checkpointing in (False, True)]
    assert f"| {name} | {held / GB:.0f} GB | {' | '.join(kept)} | {flops} |" in PAGE


def test_the_numbers_in_words_are_those_of_the_command():
    costs, _ = stage_costs(plan_training(["--config", "pali3/stage2-812", "--freeze", "vision_tower"]))
    held = costs.weight_bytes + costs.gradient_bytes + costs.optimizer_bytes
    without, with_it = (costs.example_bytes(checkpointing) / GB for checkpointing in (False, True))
    words = re.sub(r"\s+", " ", PAGE)
    assert f"{held / GB:.0f} GB in the first column and {without:.1f} ({with_it:.1f}) GB of activations" in words
