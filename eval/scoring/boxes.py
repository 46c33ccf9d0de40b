"""Boxes as the metrics compare them: checked, with labels folded, and by intersection over union."""

from collections.abc import Sequence

import numpy as np


def check_box(box: Sequence[float], where: str) -> list[float]:
    """The box as a list. Raises ValueError unless it is four finite numbers."""
    if len(box) != 4 or not np.isfinite(box).all():
        raise ValueError(f"{where}: a box is four finite numbers x0, y0, x1, y1, not {box}")
    return list(box)


def fold_label(label: str | None) -> str:
    """A label in lower case without surrounding space; empty for None."""
    return (label or "").strip().lower()


def box_ious(found: Sequence[Sequence[float]], true: Sequence[Sequence[float]]) -> np.ndarray:
    """Intersection over union of every predicted with every true box, x0, y0, x1, y1 each.

    Returns:
        float[D, G]; 0 where both boxes are empty.
    """
    a, b = (np.array(boxes, np.float64).reshape(-1, 4) for boxes in (found, true))
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.maximum(high - low, 0).prod(axis=-1)
    areas = [np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(axis=-1) for boxes in (a, b)]
    union = areas[0][:, None] + areas[1][None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
