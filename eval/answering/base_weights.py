"""The base weights of adapters: saved with them and checked, so that adapters never load on others by mistake."""

import functools
import json
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import safe_open
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

from openpali.modeling.auto import base_checkpoint
from openpali.modeling.checkpoints import reading
from openpali.modeling.user_errors import CheckpointError

BASE_FILE = "base_weights.json"
_NUMBERS = 64


def fingerprint(name: str | Path) -> str | None:
    """Hash the weights of a checkpoint: some numbers of every tensor.

    The numbers are rounded to bfloat16, and names and files do not count, so that a copy in that precision, in other
    shards or under newer names has the same hash. A merged adapter, a fine-tuned model or another one has not.

    Args:
        name: folder or Hub name of a whole checkpoint.

    Returns:
        None where its weights are not in safetensors files.

    Raises:
        CheckpointError: the files are missing or cannot be read.
    """
    with reading(name):
        digests = {digest for path in weight_files(str(name)) for digest in tensor_digests(path)}
    return sha256("".join(sorted(digests)).encode()).hexdigest() if digests else None


def tensor_digests(path: str) -> Iterator[str]:
    """A hash of the shape and of some numbers, from the middle, of each tensor of a file."""
    with safe_open(path, framework="pt") as file:
        names = file.keys()
        for key in names:
            part = file.get_slice(key)
            shape = part.get_shape()
            row = shape[0] // 2 if len(shape) > 1 else 0
            numbers = part[row : row + 1] if len(shape) > 1 else part[:_NUMBERS] if shape else file.get_tensor(key)
            if numbers.is_floating_point():
                rounded = numbers.flatten()[:_NUMBERS].to(torch.bfloat16).view(torch.int16)
                yield sha256(str(shape).encode() + rounded.numpy().tobytes()).hexdigest()


def weight_files(name: str) -> list[str]:
    """The safetensors files of a checkpoint; none where it has files of another format."""
    whole = cached_file(name, SAFE_WEIGHTS_NAME, _raise_exceptions_for_missing_entries=False)
    if whole is not None:
        return [whole]
    index = cached_file(name, SAFE_WEIGHTS_INDEX_NAME, _raise_exceptions_for_missing_entries=False)
    if index is None:
        return []
    parts = sorted(set(json.loads(Path(index).read_text("utf-8"))["weight_map"].values()))
    return [str(cached_file(name, part)) for part in parts]


# the weights at the start of a run, whatever happens to their folder meanwhile
first_fingerprint = functools.cache(fingerprint)


def save_base_fingerprint(folder: str | Path) -> None:
    """Save the hash of the base weights in a folder of adapters; nothing where those cannot be read."""
    path = Path(folder, BASE_FILE)
    path.unlink(missing_ok=True)
    try:
        base = base_checkpoint(folder)
        found = first_fingerprint(base)
    except CheckpointError:
        return
    if found:
        path.write_text(json.dumps({"base": base, "fingerprint": found}, indent=2) + "\n", "utf-8")


def check_base(name: str, base: str) -> None:
    """Compare a base with the one that adapters were trained on; a line on stderr says where that is impossible.

    Args:
        name: folder or Hub name of adapters.
        base: folder or Hub name of the base checkpoint.

    Raises:
        CheckpointError: the base has other weights.
    """
    path = cached_file(name, BASE_FILE, _raise_exceptions_for_missing_entries=False)
    found = fingerprint(base)
    if path is None or found is None:
        why = f"{name} has no {BASE_FILE}" if path is None else f"{base} has no safetensors files"
        print(f"It was not checked that {base} is what the adapters were trained on: {why}", file=sys.stderr)
        return
    with reading(name):
        saved = json.loads(Path(path).read_text("utf-8"))
        wanted, where = saved["fingerprint"], saved["base"]
    if found != wanted:
        trained = f"what was at {where}" if where != base else "what was there then"
        raise CheckpointError(
            f"the adapters of {name} were not trained on the weights of {base} but on {trained}, and would be wrong on"
            " any others: give that checkpoint as base"
        )
