"""Masks in COCO's formats, RLE and polygons, to and from `bool[H, W]`.

Strings and pixels equal those of COCO's mask library, which need not be installed. Runs go down the columns, and the
first one counts pixels outside. A string has five bits a character, and from the fourth run on differences to the run
two places before.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from openpali.data.example import Box
from openpali.data.records import MAX_PIXELS

MaskLike: TypeAlias = "np.ndarray | LazyMask | dict[str, Any]"

_FINER = 5  # COCO follows a polygon's edges on a grid this many times finer than the pixels
_WORST = 13  # characters of a run of 64 bits


class LazyMask:
    """A `bool[H, W]` that is computed on first access, since most tasks need only boxes.

    `np.asarray` and every function of numpy compute it.
    """

    def __init__(self, make: Callable[[], np.ndarray]) -> None:
        """Set the function that makes the mask; it is called once."""
        self._make = make

    @functools.cached_property
    def array(self) -> np.ndarray:
        """`bool[H, W]`."""
        return self._make()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.array, dtype=dtype) if copy else np.asarray(self.array, dtype=dtype)


def mask_array(mask: MaskLike) -> np.ndarray:
    """`bool[H, W]` of a mask in any form of records: an array, a `LazyMask` or RLE."""
    return decode_rle(mask) if isinstance(mask, dict) else np.asarray(mask).astype(bool, copy=False)


def mask_box(mask: np.ndarray, label: str = "") -> Box:
    """The tightest box around `bool[H, W]`, normalised. Raises IndexError for a mask without a pixel."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    height, width = mask.shape
    x0, y0, x1, y1 = (int(edge) for edge in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    return Box(x0 / width, y0 / height, x1 / width, y1 / height, label)


def encode_rle(mask: np.ndarray) -> dict[str, Any]:
    """COCO's compressed RLE of a mask.

    Args:
        mask: bool[H, W].

    Returns:
        `{"size": [H, W], "counts": str}`.

    Raises:
        ValueError: the mask has another number of dimensions.
    """
    if mask.ndim != 2:
        raise ValueError(f"a mask is [H, W], and this one's shape is {list(mask.shape)}")
    flat = np.asarray(mask, bool).ravel(order="F")
    edges = np.flatnonzero(np.diff(flat, prepend=False))
    counts = np.diff(edges, prepend=0, append=flat.size) if flat.size else np.zeros(1, np.int64)
    return {"size": [int(side) for side in mask.shape], "counts": _pack(counts)}


def decode_rle(rle: dict[str, Any]) -> np.ndarray:
    """The mask of a COCO RLE.

    Args:
        rle: `size` [H, W], and `counts` as COCO's string (str or bytes) or as a list of integers.

    Returns:
        bool[H, W].

    Raises:
        ValueError: it is not such a dict, or its runs do not fill the size.
    """
    counts = checked_runs(rle)
    height, width = rle["size"]
    inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(inside, counts).reshape(width, height).T


def checked_runs(rle: dict[str, Any]) -> np.ndarray:
    """int64[N], the runs of an RLE dict. Raises ValueError; see `decode_rle`."""
    height, width = _size(rle)
    counts = run_lengths(rle["counts"])
    # in floating point, which does not overflow
    if (len(counts) and counts.min() < 0) or counts.sum(dtype=np.float64) != height * width:
        raise ValueError(f"its runs do not add up to {height} x {width} pixels")
    return counts


def run_lengths(counts: Any) -> np.ndarray:
    """int64[N] of a string or list of runs. Raises ValueError if it is neither."""
    if isinstance(counts, list):
        try:
            return np.array([int(count) for count in counts], np.int64)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError("its runs are not integers") from error
    if isinstance(counts, str):
        counts = counts.encode("ascii", "replace")
    if not isinstance(counts, bytes):
        raise ValueError("its counts are neither a string nor a list")
    return _unpack(counts)


def _size(rle: dict[str, Any]) -> tuple[int, int]:
    size = rle.get("size")
    if not isinstance(size, list | tuple) or len(size) != 2 or "counts" not in rle:
        raise ValueError("an RLE needs size [height, width] and counts")
    height, width = size
    if not (isinstance(height, int) and isinstance(width, int)) or min(size) < 0 or height * width > MAX_PIXELS:
        raise ValueError(f"size {list(size)} is not the height and width of an image")
    return height, width


def _pack(counts: np.ndarray) -> str:
    """The string of runs: five bits a character, lowest first, and a sixth bit where more follow."""
    values = counts.astype(np.int64)
    values[3:] -= counts[1:-2]
    columns, more = [], np.ones(len(values), bool)
    written = []
    while more.any():
        written.append(more)
        low, values = values & 31, values >> 5
        # as in two's complement, the highest bit written is the sign
        more = more & ~((values == 0) & (low < 16) | (values == -1) & (low >= 16))
        columns.append(low + 32 * more + 48)
    return np.stack(columns, 1)[np.stack(written, 1)].astype(np.uint8).tobytes().decode("ascii")


def _unpack(string: bytes) -> np.ndarray:
    codes = np.frombuffer(string, np.uint8).astype(np.int64) - 48
    last = codes & 32 == 0
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or not last[-1]:
        raise ValueError("its counts are not a string of a COCO RLE")
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    if (ends - starts).max() >= _WORST:
        raise ValueError("its counts hold a number that no run can have")
    place = np.arange(len(codes)) - np.repeat(starts, ends - starts + 1)
    values = np.add.reduceat((codes & 31) << (5 * place), starts)
    values -= (codes[ends] >> 4 & 1) << (5 * (ends - starts + 1))
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def polygons_mask(polygons: Sequence[Sequence[float] | np.ndarray], height: int, width: int) -> np.ndarray:
    """The mask of the polygons of one object, pixel for pixel as COCO's library.

    Args:
        polygons: of x1, y1, x2, y2 and so on in pixels; at least three points each.
        height: of the image in pixels.
        width: likewise.

    Returns:
        bool[height, width], the union.

    Raises:
        ValueError: fewer points, an odd number of coordinates, or a coordinate that is not a number.
    """
    mask = np.zeros((height, width), bool)
    for polygon in polygons:
        mask |= _filled(checked_polygon(polygon), height, width)
    return mask


def checked_polygon(polygon: Any) -> np.ndarray:
    """float[N, 2] of x1, y1, x2, y2 and so on. Raises ValueError; see `polygons_mask`."""
    try:
        points = np.asarray(polygon, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError("a polygon is not a list of numbers") from error
    if points.ndim == 2:
        raise ValueError("a polygon that is a list of points; write x1, y1, x2, y2 and so on without more brackets")
    if points.ndim != 1 or len(points) < 6 or len(points) % 2:
        raise ValueError(f"a polygon of {points.size} coordinates; x and y of at least three points are needed")
    # larger than any image, and within the range of the finer grid
    if not np.isfinite(points).all() or np.abs(points).max() > MAX_PIXELS:
        raise ValueError("a polygon has a coordinate that is not a number of pixels")
    return points.reshape(-1, 2)


def _filled(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """The mask of one polygon, by the even-odd rule along each column."""
    grid = np.trunc(_FINER * points + 0.5).astype(np.int64)
    lines = [_line(start, end) for start, end in zip(grid, np.roll(grid, -1, axis=0))]
    line = np.concatenate(lines)
    before, after = line[:-1], line[1:]
    column = (np.minimum(before[:, 0], after[:, 0]) + 0.5) / _FINER - 0.5
    row = (np.minimum(before[:, 1], after[:, 1]) + 0.5) / _FINER - 0.5
    # only where the line crosses the middle of a column
    crosses = (before[:, 0] != after[:, 0]) & (column == np.floor(column)) & (column >= 0) & (column <= width - 1)
    rows = np.ceil(np.clip(row[crosses], 0, height)).astype(np.int64)
    edges = np.sort(column[crosses].astype(np.int64) * height + rows)
    runs = np.diff(edges, prepend=0, append=height * width)
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def _line(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Points of the finer grid from one corner to the next, in unit steps of the longer side: int[N, 2]."""
    steps = np.abs(end - start)
    longer = 0 if steps[0] >= steps[1] else 1
    count = int(steps[longer])
    # always from the smaller end, so that both directions round equally
    backwards = start[longer] > end[longer]
    low, high = (end, start) if backwards else (start, end)
    along = np.arange(count + 1)
    slope = (high[1 - longer] - low[1 - longer]) / count if count else 0.0
    points = np.empty((count + 1, 2), np.int64)
    points[:, longer] = low[longer] + along
    points[:, 1 - longer] = np.trunc(low[1 - longer] + slope * along + 0.5)
    return points[::-1] if backwards else points
