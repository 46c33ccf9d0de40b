"""Groups of examples by their labels, such as an age or a colour."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from openpali.data.example import Example

CROSSED = "+"
FIRST = 32
"""Examples that are looked at before a model is loaded."""


@dataclass(frozen=True)
class Attribute:
    """Examples by one label, or by several together.

    Attributes:
        name: of the label; `age+gender` is every combination of two.
        groups: int[n], indices of the examples of each group, in natural order of the groups' names.
        missing: number of examples without the label; they are in no group.
    """

    name: str
    groups: dict[str, np.ndarray]
    missing: int


def read_attributes(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[Attribute]:
    """The groups of each attribute.

    Args:
        rows: of predictions, with `groups` (label to group) where an example has any.
        names: of labels, such as `age`, `gender` and `age+gender`.

    Raises:
        ValueError: no example has such a label; the message names those that there are.
    """
    labels = [row.get("groups") or {} for row in rows]
    check_names(labels, names)
    return [read_attribute(labels, name) for name in names]


def check_labels(examples: Sequence[Example], names: Sequence[str]) -> None:
    """Raise ValueError for a label that none of the first examples has; without any labels they say nothing."""
    labels = [example.meta["groups"] for example in examples if "groups" in example.meta]
    if labels:
        check_names(labels, names)


def check_names(labels: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    """Raise ValueError where there are no labels, or none of a name."""
    known = sorted({label for some in labels for label in some})
    if not known:
        raise ValueError(
            '--groups: no example has groups. Give records "groups": {"age": "old"}, or a source with labels'
            " (labelled, fairface, miap)"
        )
    for part in [part for name in names for part in name.split(CROSSED)]:
        if part not in known:
            raise ValueError(f"--groups: no example has the label {part!r}; there are {', '.join(known)}")


def read_attribute(labels: Sequence[Mapping[str, Any]], name: str) -> Attribute:
    """The groups of one attribute."""
    found: dict[str, list[int]] = {}
    parts = name.split(CROSSED)
    for index, some in enumerate(labels):
        if all(part in some for part in parts):
            found.setdefault(", ".join(str(some[part]) for part in parts), []).append(index)
    groups = {group: np.array(found[group]) for group in sorted(found, key=natural)}
    return Attribute(name, groups, len(labels) - sum(map(len, found.values())))


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts numbers in names by their value, so that 3-9 is before 10-19."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
