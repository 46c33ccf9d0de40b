"""An order of images by their content, to break ties of scores independently of the order of the data set."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

Boxes = Sequence[Mapping[str, Any]]


def image_order(found: Sequence[Boxes], true: Sequence[Boxes]) -> list[int]:
    """Indices of images by a hash of their boxes, predicted and true.

    Images with the same hash have the same boxes, so that their order does not matter.

    Args:
        found: predicted boxes of each image, in the order of the answer, with scores.
        true: ground-truth boxes of each image.
    """
    keys = [image_key(*pair) for pair in zip(found, true, strict=True)]
    return sorted(range(len(keys)), key=keys.__getitem__)


def image_key(found: Boxes, true: Boxes) -> bytes:
    """A hash of labels, corners and scores; the order of ground-truth boxes does not count."""
    written, wanted = [box_key(box) for box in found], sorted(box_key(box) for box in true)
    return blake2b(repr((written, wanted)).encode(), digest_size=16).digest()


def box_key(box: Mapping[str, Any]) -> tuple[Any, ...]:
    """Label, corners and score of a box, with all numbers as floats."""
    return box["label"], [float(value) for value in box["box"]], float(box["score"])
