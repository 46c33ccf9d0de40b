"""Several examples in one sequence, so that little of a batch is padding.

    [img img p p s s | img img p s s s | p s pad]      one row of the batch, three examples
    sequence_ids  0 0 0 0 0 0   1 1 1 1 1 1   2 2 -1

`pack` decides which examples share a row, `packed_batch` lays them out for `PaliGemmaForConditionalGeneration`, which
masks attention between them: loss and gradients are those of the unpacked batch.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, islice
from typing import Any

import torch
from transformers import BatchFeature

from openpali.modeling.token_loss import IGNORE_INDEX

LOOK_AHEAD = 64


def pack(lengths: Iterable[int], capacity: int, look_ahead: int = LOOK_AHEAD) -> Iterator[list[int]]:
    """Greedy best fit: which examples share each row.

    The oldest waiting example opens a row; then, as long as one of the next `look_ahead` fits, the longest that does
    joins it. So no example waits for ever, and no more than `look_ahead` lengths are held.

    Args:
        lengths: tokens of each example, in order; read as they are needed.
        capacity: tokens of a row. An example that is longer has a row of its own.
        look_ahead: examples to choose from.

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
    """Share of padding in a batch of these rows, each as wide as the widest, in [0, 1)."""
    width = max(sum(lengths[i] for i in row) for row in rows)
    return 1 - sum(lengths) / (width * len(rows))


def real_tokens(batch: Any) -> torch.Tensor:
    """Which places of a batch, packed or not, hold tokens and not padding: bool[B, L]."""
    return batch["sequence_ids"] >= 0 if "sequence_ids" in batch else batch["attention_mask"] > 0


def packed_batch(rows: Sequence[Sequence[int]], features: Any, images: Sequence[int], pad_token_id: int) -> Any:
    """Lay examples out in rows.

    Args:
        rows: of `pack`.
        features: the processor's unpadded lists `input_ids`, `token_type_ids`, `labels`, one an example, and
            `pixel_values`: total_images of float[3, H, W], example by example.
        images: images of each example.
        pad_token_id: for the end of rows.

    Returns:
        `input_ids`, `token_type_ids`, `labels`, `position_ids` (from 1, anew in each example) and `sequence_ids` (the
        example's number in the batch, -1 on padding): int[R, L]; `pixel_values` in the order of the rows.
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
    if "pixel_values" in features:
        ends = list(accumulate(images))
        of_example = [features["pixel_values"][end - n : end] for n, end in zip(images, ends)]
        data["pixel_values"] = torch.stack([torch.as_tensor(image) for i in order for image in of_example[i]])
    return BatchFeature(data)


def joined(values: Any, row: Sequence[int], width: int, pad: int) -> list[int]:
    """Values of the examples of a row, one behind the other, padded to the width."""
    tokens = [token for i in row for token in values[i]]
    return tokens + [pad] * (width - len(tokens))
