"""The weights of a checkpoint on disk: their names, sizes and types, and single tables, without loading the model."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import safe_open

from openpali.modeling.checkpoints import reading
from openpali.recipes.training.optimizer import component_of

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
# names of types in safetensors files
TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32"}


@dataclass(frozen=True)
class StoredWeight:
    """A weight in a file: number of its values, and its type."""

    file: Path
    values: int
    dtype: str


def stored_weights(name: str) -> dict[str, StoredWeight]:
    """The weights of a folder, or of a published checkpoint in the cache of the Hub; none where there are no files.

    Raises:
        CheckpointError: a file cannot be read.
    """
    found = {}
    with reading(name):
        for path in weight_files(name):
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118
                    part = file.get_slice(key)
                    kind = str(part.get_dtype())
                    values = torch.Size(part.get_shape()).numel()
                    found[key] = StoredWeight(path, values, TYPES.get(kind, kind.lower()))
    return found


def weight_files(name: str) -> list[Path]:
    """The files that hold the weights: one, or those that an index names."""
    if (whole := file_of(name, WEIGHTS)) is not None:
        return [whole]
    if (index := file_of(name, INDEX)) is None:
        return []
    parts = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    return [path if (path := file_of(name, part)) is not None else index.parent / part for part in parts]


def file_of(name: str, file: str) -> Path | None:
    """A file of a folder, or of a checkpoint in the cache of the Hub; nothing is downloaded."""
    if Path(name).is_dir():
        return Path(name, file) if Path(name, file).is_file() else None
    found = try_to_load_from_cache(name, file) if name.count("/") < 2 else None
    return Path(found) if isinstance(found, str) else None


def stored_table(weights: dict[str, StoredWeight], names: Iterable[str]) -> torch.Tensor | None:
    """The weight that has one of these names, or ends like one as in older files; None without it.

    It is mapped, not read: a row takes memory when it is used.
    """
    names = list(names)
    ends = {".".join(name.split(".")[-2:]) for name in names}
    alike = [key for key in weights if ".".join(key.split(".")[-2:]) in ends and "vision" not in key]
    exact = [name for name in names if name in weights]
    key = exact[0] if exact else alike[0] if len(alike) == 1 else None
    if key is None:
        return None
    with safe_open(weights[key].file, framework="pt") as file:
        return file.get_tensor(key)


def types_of(weights: dict[str, StoredWeight]) -> dict[str, int]:
    """Number of values by type, the most common one first."""
    counts: Counter[str] = Counter()
    for weight in weights.values():
        counts[weight.dtype] += weight.values
    return dict(counts.most_common())


def stored_components(weights: dict[str, StoredWeight]) -> dict[str, int]:
    """Number of values by component."""
    counts: Counter[str] = Counter()
    for name, weight in weights.items():
        counts[component_of(name)] += weight.values
    return dict(counts)
