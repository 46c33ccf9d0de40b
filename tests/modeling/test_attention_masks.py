"""Masks of PaliGemma's training, against those of big_vision and against the drawings in the docstrings."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_paligemma import KINDS, TEXT
from transformers import AutoConfig

from openpali.modeling.attention_masks import prefix_lm_mask, same_example

FIXTURES = Path(__file__).parents[1] / "fixtures"


def rows_of(function, *, square: bool) -> list[list[int]]:
    """Rows of 0 and 1 in a docstring: those of matrices, which stand on lines of their own, or those in the text."""
    pattern = r"^ *(?:[ips.] +)?\[([01 ]+)\]$" if square else r" = \[([-01 ]+)\]`"
    return [[int(x) for x in row.split()] for row in re.findall(pattern, function.__doc__, re.MULTILINE)]


def text_config(kind: str, attention: str = "sdpa"):
    return AutoConfig.for_model(**TEXT[kind], vocab_size=32, attn_implementation=attention)


def mask_of(types, attention_mask=None, sequence_ids=None, config=None):
    """bool[L, L] of one row."""
    tensors = [None if row is None else torch.tensor([row]) for row in (attention_mask, types, sequence_ids)]
    return prefix_lm_mask(config or text_config("gemma"), torch.zeros(1, len(types), 16), *tensors)[0, 0]


@pytest.mark.parametrize("case", ["prefix_lm", "causal", "prefix_lm_padded"])
def test_masks_are_those_of_big_vision(case):
    reference = np.load(FIXTURES / "attn_masks.npz")
    causal, real = (torch.tensor(reference[f"{case}/{name}"]) for name in ("mask_ar", "input_mask"))
    expected = torch.tensor(reference[f"{case}/attn_mask"])
    embeds = torch.zeros(1, causal.shape[1], 16)
    mask = prefix_lm_mask(text_config("gemma"), embeds, real.long(), causal, None)[:, 0]
    # rows of padding do not matter: no token attends to padding
    assert torch.equal(mask[0, real[0]], expected[0, real[0]])


def test_the_drawings_are_the_masks():
    matrices = rows_of(prefix_lm_mask, square=True)
    types, real, packed_types, sequence_ids = rows_of(prefix_lm_mask, square=False)
    assert mask_of(types, real).int().tolist() == matrices[: len(types)]
    assert mask_of(packed_types, sequence_ids=sequence_ids).int().tolist() == matrices[len(types) :]
    (ids,) = rows_of(same_example, square=False)
    index = torch.arange(len(ids))
    mask = same_example(torch.tensor([ids]))(0, 0, index[:, None], index)
    assert mask.int().tolist() == rows_of(same_example, square=True)


def test_causal_images_do_not_see_what_follows_them():
    assert torch.equal(mask_of([1] * 6, [1] * 6), torch.ones(6, 6, dtype=torch.bool).tril())


@pytest.mark.parametrize("kind", KINDS)
def test_gemma_2_has_a_mask_for_each_type_of_layer(kind):
    mask = prefix_lm_mask(text_config(kind), torch.zeros(1, 9, 16), None, torch.tensor([[0] * 3 + [1] * 6]), None)
    if kind == "gemma":
        assert mask.shape == (1, 1, 9, 9)
        return
    assert set(mask) == {"full_attention", "sliding_attention"}
    window = TEXT[kind]["sliding_window"]
    assert mask["full_attention"][0, 0, -1].all()
    assert mask["sliding_attention"][0, 0, -1].int().tolist() == [0] * (9 - window) + [1] * window
