"""Automatic labels of a record by the models that made them.

A record's `label_models` names the model behind a label: `{"words": MODEL, "objects": MODEL, "captions.de": MODEL}`;
a key after a dot is one within the label. An object among others may name its own as `model`, that of its mask as
`mask_model`: an object without one is then a person's.
"""

import fnmatch
from collections.abc import Sequence
from typing import Any

LEFT_OUT = "left_out"
"""Key of a record: the labels that it has no longer, since their models are not wanted."""
MASK_KEYS = ("mask", "mask_tokens", "mask_codec", "mask_model")

Record = dict[str, Any]


def with_labels_of(record: Record, patterns: Sequence[str] | None) -> Record:
    """The record with the labels of some models, and all that people made.

    Args:
        record: with `label_models` where it has automatic labels.
        patterns: of the models whose labels stay, as in `fnmatch`; None keeps every record as it is.
    """
    models = record.get("label_models") or {}
    if patterns is None or not models:
        return record
    changed, before = dict(record), set(record)
    for label, model in models.items():
        if label == "objects":
            changed |= {"objects": _objects_of(record.get("objects", []), model, patterns)}
        elif label != "masks" and not _wanted(model, patterns):
            _remove(changed, label)
    if "masks" in models and changed.get("objects"):
        changed["objects"] = [_with_mask_of(item, patterns) for item in changed["objects"]]
    if not changed.get("objects", True) and record.get("objects"):
        del changed["objects"]
    left_out = sorted(before - set(changed))
    return changed | ({LEFT_OUT: left_out} if left_out else {})


def was_left_out(record: Record, error: KeyError) -> bool:
    """Whether a task misses a label that the record has no longer, which is no fault of the data."""
    return bool(error.args) and error.args[0] in record.get(LEFT_OUT, ())


def _objects_of(objects: list[Record], model: str, patterns: Sequence[str]) -> list[Record]:
    """The objects of wanted models and of people; all are `model`'s where none names its own."""
    if not any("model" in item for item in objects):
        return list(objects) if _wanted(model, patterns) else []
    return [item for item in objects if "model" not in item or _wanted(item["model"], patterns)]


def _with_mask_of(item: Record, patterns: Sequence[str]) -> Record:
    if "mask_model" not in item or _wanted(item["mask_model"], patterns):
        return item
    return {key: value for key, value in item.items() if key not in MASK_KEYS}


def _remove(record: Record, label: str) -> None:
    """Take `captions.de` out of a record's captions, and these out of the record where none are left."""
    key, _, rest = label.partition(".")
    inner = {name: value for name, value in record[key].items() if name != rest} if _inside(record, key, rest) else {}
    record.pop(key, None)
    if inner:
        record[key] = inner


def _inside(record: Record, key: str, rest: str) -> bool:
    return bool(rest) and isinstance(record.get(key), dict)


def _wanted(model: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(model, pattern) for pattern in patterns)
