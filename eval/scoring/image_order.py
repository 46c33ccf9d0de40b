"""An order of images that is theirs and not that of whoever lists them: ties of scores are broken by it."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

Boxes = Sequence[Mapping[str, Any]]


def image_order(found: Sequence[Boxes], true: Sequence[Boxes]) -> list[int]:
    """Indices of images by a hash of their boxes, predicted and true.

    ImageFolder of one hash have the same boxes, so that it does not matter which of them comes first.

    Args:
        found: of each image its predicted boxes, in the order in which they were written, with scores.
        true: of each image its true boxes.
    """
    keys = [image_key(*pair) for pair in zip(found, true, strict=True)]
    return sorted(range(len(keys)), key=keys.__getitem__)


def image_key(found: Boxes, true: Boxes) -> bytes:
    """A hash of labels, corners and scores; of true boxes in any order."""
    written, wanted = [box_key(box) for box in found], sorted(box_key(box) for box in true)
    return blake2b(repr((written, wanted)).encode(), digest_size=16).digest()


def box_key(box: Mapping[str, Any]) -> tuple[Any, ...]:
    """Label, corners and score of a box; whole numbers are the same as others."""
    return box["label"], [float(value) for value in box["box"]], float(box["score"])
