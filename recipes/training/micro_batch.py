"""Micro-batches in parts, for a run that would otherwise not fit into memory.

What the loader gives stays as it is: the same examples in the same order, and as many of them before each step of the
optimizer. Only the passes through the model become smaller and more.
"""

import json
from pathlib import Path
from typing import Any

import torch

from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.training.loss_guard import RunStopped

PARTS_FILE = "micro_batch.json"
# their first dimension is that of images
OF_IMAGES = ("pixel_values", "image_features")


def split(inputs: dict[str, Any], parts: int, image_token: int | None) -> list[tuple[dict[str, Any], float]]:
    """A micro-batch in parts of nearly equal size, each with its share of the examples.

    Args:
        inputs: tensors whose first dimension is that of the examples, but for `pixel_values: float[images, ...]` or
            `image_features` in its place, whose images belong to the rows in proportion to the image tokens that
            these hold.
        parts: how many, at most one for each example.
        image_token: the id of image tokens in `input_ids`.

    Raises:
        RunStopped: the batch cannot be split without changing its loss.
    """
    if parts == 1:
        return [(inputs, 1.0)]
    rows = batch_rows(inputs)
    images = images_of_rows(inputs, rows, image_token)
    parts = min(parts, rows)
    ends = [rows * (i + 1) // parts for i in range(parts)]
    cut = []
    for begin, end in zip([0, *ends], ends):
        first, last = sum(images[:begin]), sum(images[:end])
        part = {
            key: value[first:last] if key in OF_IMAGES else value[begin:end] if has_rows(value) else value
            for key, value in inputs.items()
        }
        cut.append((part, (end - begin) / rows))
    return cut


def has_rows(value: Any) -> bool:
    """Whether a value of a batch has a dimension of examples."""
    return torch.is_tensor(value) and value.ndim > 0


def batch_rows(inputs: dict[str, Any]) -> int:
    """Number of examples.

    Raises:
        RunStopped: if they are packed, or if tensors disagree.
    """
    sizes = {key: len(value) for key, value in inputs.items() if has_rows(value) and key not in OF_IMAGES}
    sizes = sizes or {"pixel_values": len(inputs["pixel_values"])}
    if "sequence_ids" in inputs or len(set(sizes.values())) != 1:
        raise RunStopped(
            "out of memory, and these batches cannot be halved, since their rows are not one example each:"
            " lower per_device_train_batch_size and raise gradient_accumulation_steps"
        )
    return next(iter(sizes.values()))


def images_of_rows(inputs: dict[str, Any], rows: int, image_token: int | None) -> list[int]:
    """How many images each row has."""
    total = next((len(inputs[key]) for key in OF_IMAGES if key in inputs), 0)
    if total in (0, rows) or image_token is None or "input_ids" not in inputs:
        return [1] * rows
    tokens = (inputs["input_ids"] == image_token).sum(dim=1)
    return (tokens * total // tokens.sum()).tolist()


def read_parts(args: RunArguments) -> int:
    """In how many parts an earlier attempt of this run had to compute its micro-batches."""
    path = args.folder / PARTS_FILE
    kept = json.loads(path.read_text()) if path.exists() else {}
    return kept["parts"] if kept.get("micro_batch") == args.per_device_train_batch_size else 1


def write_parts(args: RunArguments, parts: int) -> Path:
    """Remember it, for this run when it goes on."""
    path = args.folder / PARTS_FILE
    fresh = path.with_suffix(f".{args.process_index}")
    fresh.write_text(json.dumps({"micro_batch": args.per_device_train_batch_size, "parts": parts}) + "\n")
    return fresh.replace(path)
