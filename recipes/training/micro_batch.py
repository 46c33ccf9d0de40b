"""Micro-batches split into parts, for a run that would otherwise not fit into memory.

The batch of an optimizer step and the order of examples stay the same; only the passes through the model become
smaller.
"""

import json
from pathlib import Path
from typing import Any

import torch

from openpali.modeling.image_patches import IMAGE_INPUTS, images_of_rows
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.training.loss_guard import RunStopped

PARTS_FILE = "micro_batch.json"


def split_batch(inputs: dict[str, Any], parts: int, image_token: int | None) -> list[tuple[dict[str, Any], float]]:
    """Split a micro-batch into parts of nearly equal size, each with its share of the examples.

    Args:
        inputs: tensors whose first dimension is that of the examples, except `pixel_values: float[images, ...]` and
            others of `IMAGE_INPUTS`, whose images belong to the rows that have their tokens.
        parts: number of parts, at most one for each example.
        image_token: the id of image tokens in `input_ids`.

    Raises:
        RunStopped: the batch cannot be split without changing its loss.
    """
    if parts == 1:
        return [(inputs, 1.0)]
    rows = batch_rows(inputs)
    images = [1] * rows
    if image_token is not None and "input_ids" in inputs and any(name in inputs for name in IMAGE_INPUTS):
        images = images_of_rows((inputs["input_ids"] == image_token).sum(dim=1), inputs)
    parts = min(parts, rows)
    ends = [rows * (i + 1) // parts for i in range(parts)]
    found = []
    for begin, end in zip([0, *ends], ends):
        first, last = sum(images[:begin]), sum(images[:end])
        part = {
            key: value[first:last] if key in IMAGE_INPUTS else value[begin:end] if has_rows(value) else value
            for key, value in inputs.items()
        }
        found.append((part, (end - begin) / rows))
    return found


def has_rows(value: Any) -> bool:
    """Whether a value of a batch has a dimension of examples."""
    return torch.is_tensor(value) and value.ndim > 0


def batch_rows(inputs: dict[str, Any]) -> int:
    """Number of examples.

    Raises:
        RunStopped: the rows are packed, or tensors differ in length.
    """
    sizes = {key: len(value) for key, value in inputs.items() if has_rows(value) and key not in IMAGE_INPUTS}
    sizes = sizes or {"pixel_values": len(inputs["pixel_values"])}
    if "sequence_ids" in inputs or len(set(sizes.values())) != 1:
        raise RunStopped(
            "out of memory, and these batches cannot be halved, since their rows are not one example each:"
            " lower per_device_train_batch_size and raise gradient_accumulation_steps"
        )
    return next(iter(sizes.values()))


def read_parts(args: RunArguments) -> int:
    """Number of parts that an earlier attempt of this run split its micro-batches into."""
    path = args.folder / PARTS_FILE
    kept = json.loads(path.read_text()) if path.exists() else {}
    return kept["parts"] if kept.get("micro_batch") == args.per_device_train_batch_size else 1


def write_parts(args: RunArguments, parts: int) -> Path:
    """Save the number of parts, for this run when it resumes."""
    path = args.folder / PARTS_FILE
    fresh = path.with_suffix(f".{args.process_index}")
    fresh.write_text(json.dumps({"micro_batch": args.per_device_train_batch_size, "parts": parts}) + "\n")
    return fresh.replace(path)
