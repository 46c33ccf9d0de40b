"""Sequence packing: several examples in one row of a batch, so that little of it is padding.

`pack` chooses the examples of each row, `packed_batch` lays out the tensors. PaliGemma's attention mask keeps
the examples of a row apart, so that loss and gradients equal those of the unpacked batch.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, islice
from typing import Any

import torch
from transformers import BatchFeature

from openpali.modeling.image_patches import IMAGE_INPUTS
from openpali.modeling.token_loss import IGNORE_INDEX

LOOK_AHEAD = 64


def pack(lengths: Iterable[int], capacity: int, look_ahead: int = LOOK_AHEAD) -> Iterator[list[int]]:
    """Choose the examples of each row by greedy best fit.

    The first waiting example opens a row; then the longest of the next `look_ahead` that fits joins it, until none
    fits. No example waits forever, and at most `look_ahead` lengths are in memory.

    Args:
        lengths: tokens of each example, in order; read lazily.
        capacity: tokens of a row. A longer example gets its own row.
        look_ahead: number of examples to choose from.

    Yields:
        Positions in `lengths` of the examples of a row.

    Raises:
        ValueError: if `look_ahead` is below 1.
    """
    if look_ahead < 1:
        raise ValueError(f"look_ahead={look_ahead}: at least one example must be looked at")
    coming, waiting = enumerate(lengths), deque[tuple[int, int]]()
    waiting.extend(islice(coming, look_ahead))
    while waiting:
        chosen, row, room = waiting[0], [], capacity
        while chosen is not None:
            waiting.remove(chosen)
            waiting.extend(islice(coming, 1))
            row.append(chosen[0])
            room -= chosen[1]
            chosen = max((item for item in waiting if item[1] <= room), key=lambda item: item[1], default=None)
        yield row


def padding_share(lengths: Sequence[int], rows: Sequence[Sequence[int]]) -> float:
    """Share of padding in a batch of these rows, padded to the widest, in [0, 1)."""
    width = max(sum(lengths[i] for i in row) for row in rows)
    return 1 - sum(lengths) / (width * len(rows))


def real_tokens(batch: Any) -> torch.Tensor:
    """True at tokens and False at padding of a batch, packed or not: bool[B, L]."""
    return batch["sequence_ids"] >= 0 if "sequence_ids" in batch else batch["attention_mask"] > 0


def packed_batch(rows: Sequence[Sequence[int]], features: Any, images: Sequence[int], pad_token_id: int) -> Any:
    """Lay examples out in rows: B examples of different lengths become R rows of L tokens.

    Three examples (i image, p prefix, s suffix, _ padding) with `rows = [[0, 2], [1]]`:

        input_ids       i  i  p  s  s  i  p  s        i  i  p  p  s  _  _  _      int[R, L]
        sequence_ids    0  0  0  0  0  1  1  1        2  2  2  2  2 -1 -1 -1
        position_ids    1  2  3  4  5  1  2  3        1  2  3  4  5  1  1  1
        token_type_ids  0  0  0  1  1  0  0  1        0  0  0  0  1  1  1  1

    The model builds its attention mask, bool[R, 1, L, L], from `sequence_ids` and `token_type_ids`. For the first
    row, with queries down and keys across:

             i i p s s i p s
        i    1 1 1 . . . . .     image and prefix: the image and prefix of the same example
        i    1 1 1 . . . . .
        p    1 1 1 . . . . .
        s    1 1 1 1 . . . .     suffix: causal
        s    1 1 1 1 1 . . .
        i    . . . . . 1 1 .     no attention between examples
        p    . . . . . 1 1 .
        s    . . . . . 1 1 1

    Args:
        rows: of `pack`.
        features: the processor's unpadded lists `input_ids`, `token_type_ids` and `labels`, one for each example, and
            `pixel_values`: a float[3, H, W] for each image, in the order of the examples. Of images of any aspect
            ratio also their masks and `spatial_shapes`.
        images: number of images of each example.
        pad_token_id: fills rows up.

    Returns:
        `input_ids`, `token_type_ids`, `labels`, `position_ids` (from 1 in each example) and `sequence_ids` (number of
        the example in the order of the rows, -1 at padding): int[R, L]; `pixel_values: float[images, 3, H, W]` and
        what else there is for each image, in the order of the rows.
    """
    order = [i for row in rows for i in row]
    number = {index: position for position, index in enumerate(order)}
    lengths = {i: len(features["input_ids"][i]) for i in order}
    columns = {
        "input_ids": (features["input_ids"], pad_token_id),
        "token_type_ids": (features["token_type_ids"], 1),
        "labels": (features["labels"], IGNORE_INDEX),
        "position_ids": ({i: range(1, n + 1) for i, n in lengths.items()}, 1),
        "sequence_ids": ({i: [number[i]] * n for i, n in lengths.items()}, -1),
    }
    width = max(sum(lengths[i] for i in row) for row in rows)
    data = {
        name: torch.tensor([joined(values, row, width, pad) for row in rows])
        for name, (values, pad) in columns.items()
    }
    ends = list(accumulate(images))
    for name in IMAGE_INPUTS:
        if name in features:
            of_example = [features[name][end - n : end] for n, end in zip(images, ends)]
            data[name] = torch.stack([torch.as_tensor(image) for i in order for image in of_example[i]])
    return BatchFeature(data)


def joined(values: Any, row: Sequence[int], width: int, pad: int) -> list[int]:
    """The values of the examples of a row, concatenated and padded to the width: width numbers."""
    tokens = [token for i in row for token in values[i]]
    return tokens + [pad] * (width - len(tokens))
