import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from openpali.data.packing import pack, packed_batch, padding_share, real_tokens


@given(st.lists(st.integers(1, 50), max_size=80), st.integers(50, 120), st.integers(1, 20))
def test_every_example_is_in_one_row_and_no_row_is_too_long(lengths, capacity, look_ahead):
    rows = list(pack(lengths, capacity, look_ahead))
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[i] for i in row) <= capacity for row in rows)
    # the first waiting example opens a row: none waits forever
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)


@given(st.lists(st.integers(1, 50), max_size=80), st.integers(1, 20))
def test_no_more_is_looked_at_than_allowed(lengths, look_ahead):
    seen = 0

    def stream():
        nonlocal seen
        for length in lengths:
            seen += 1
            yield length

    placed = 0
    for row in pack(stream(), 60, look_ahead):
        placed += len(row)
        assert seen - placed <= look_ahead


def test_the_longest_that_fits_joins():
    assert list(pack([60, 30, 45, 40, 10], 100)) == [[0, 3], [1, 2, 4]]
    assert list(pack([60, 30, 45, 40, 10], 100, look_ahead=1)) == [[0, 1], [2, 3, 4]]


def test_packing_saves_padding_and_looking_ahead_saves_more():
    rng = random.Random(0)
    lengths = [min(128, 1 + int(rng.lognormvariate(3, 1))) for _ in range(500)]
    shares = [padding_share(lengths, list(pack(lengths, 128, n))) for n in (1, 8, 64)]
    alone = padding_share(lengths, [[i] for i in range(len(lengths))])
    assert shares[2] < 0.01 < shares[1] < 0.05 < shares[0] < 0.25 < alone


def test_an_example_longer_than_a_row_has_one_of_its_own():
    assert list(pack([3, 9, 4], 8)) == [[0, 2], [1]]


def test_at_least_one_example_is_looked_at():
    with pytest.raises(ValueError, match="look_ahead=0"):
        list(pack([1], 8, look_ahead=0))


def test_layout_of_a_packed_batch():
    features = {"input_ids": [[9, 1, 2], [9, 9, 3, 4], [5]], "token_type_ids": [[0, 0, 1], [0, 0, 0, 1], [1]]}
    features["labels"] = [[-100, -100, 2], [-100, -100, -100, 4], [-100]]
    features["pixel_values"] = torch.arange(3.0)[:, None]
    batch = packed_batch([[1, 2], [0]], features, images=[1, 2, 0], pad_token_id=0)
    assert batch["input_ids"].tolist() == [[9, 9, 3, 4, 5], [9, 1, 2, 0, 0]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 1, 1], [0, 0, 1, 1, 1]]
    assert batch["labels"].tolist() == [[-100, -100, -100, 4, -100], [-100, -100, 2, -100, -100]]
    assert batch["position_ids"].tolist() == [[1, 2, 3, 4, 1], [1, 2, 3, 1, 1]]
    assert batch["sequence_ids"].tolist() == [[0, 0, 0, 0, 1], [2, 2, 2, -1, -1]]
    assert batch["pixel_values"][:, 0].tolist() == [1, 2, 0]
    assert real_tokens(batch).sum() == 8
    assert real_tokens({"attention_mask": torch.tensor([[1, 1, 0]])}).tolist() == [[True, True, False]]
