"""Compare segmentations with the boxes of the same objects: same place, and same units?"""

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from openpali.data.masks.rle import checked_polygon, checked_runs

# left, top, right, bottom in pixels
Edges = tuple[float, float, float, float]

LEAST_OVERLAP = 0.3  # IoU of the box around a segmentation and the object's box; they differ under occlusion
_CLOSE = 3.0  # pixels that the edges of tiny objects may differ
MOST_PAIRS = 5_000  # sample from which the units are judged
_ALIKE, _BETTER = 0.8, 0.1


def segmentation_edges(segmentation: Any) -> Edges | None:
    """The box around valid polygons or a valid RLE; None where they cover nothing."""
    if isinstance(segmentation, dict):
        return _run_edges(segmentation)
    if not segmentation:
        return None
    points = np.concatenate([checked_polygon(polygon) for polygon in segmentation])
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    return float(left), float(top), float(right), float(bottom)


def _run_edges(rle: dict[str, Any]) -> Edges | None:
    height = rle["size"][0]
    ends = np.cumsum(checked_runs(rle))
    starts, ends = ends[0:-1:2], ends[1::2]
    # runs of pixels inside, without empty ones
    starts, ends = starts[ends > starts], ends[ends > starts] - 1
    if not len(starts):
        return None
    left, right = int(starts.min()) // height, int(ends.max()) // height + 1
    if (starts // height != ends // height).any():
        return left, 0, right, height
    return left, int((starts % height).min()), right, int((ends % height).max()) + 1


def same_place(mask: Edges, box: Edges) -> bool:
    """Whether the box around a segmentation is roughly the object's box."""
    return overlap(mask, box) >= LEAST_OVERLAP or all(abs(a - b) <= _CLOSE for a, b in zip(mask, box))


def overlap(a: Edges, b: Edges) -> float:
    """Intersection over union."""
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(wide, 0) * max(high, 0)
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return both / (areas - both) if areas > both else 0.0


def other_units(pairs: Sequence[tuple[Edges, Edges, tuple[int, int]]]) -> str:
    """The units in which segmentations fit their boxes, if those are not pixels; "" if they are or none fits.

    Args:
        pairs: edges of a segmentation and of its box, and width and height of the image.
    """
    some = pairs[:: max(1, len(pairs) // MOST_PAIRS)]
    if not some:
        return ""
    given = fmean(overlap(mask, box) for mask, box, _ in some)
    scores = {name: fmean(overlap(to(mask, *size), box) for mask, box, size in some) for name, to in _UNITS.items()}
    best = max(scores, key=lambda name: scores[name])
    return best if scores[best] >= _ALIKE and scores[best] > given + _BETTER else ""


def _swapped(edges: Edges, width: float, height: float) -> Edges:
    return edges[1], edges[0], edges[3], edges[2]


def _shares(edges: Edges, width: float, height: float) -> Edges:
    return edges[0] * width, edges[1] * height, edges[2] * width, edges[3] * height


_UNITS: dict[str, Callable[[Edges, float, float], Edges]] = {
    "x and y exchanged": _swapped,
    "shares of the image's sides": _shares,
    "shares of the image's sides with x and y exchanged": lambda e, w, h: _shares(_swapped(e, w, h), w, h),
    "percent of the image's sides": lambda e, w, h: _shares(e, w / 100, h / 100),
}
