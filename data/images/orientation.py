"""EXIF orientation: turn annotations of an image as it is stored into those of the upright image.

Models always get upright images. Some annotation tools show images as stored, so that boxes and masks have to be
turned. Numbers are those of EXIF's tag Orientation; 1 is upright.
"""

import io
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from openpali.data.example import Box
from openpali.data.images.open_image import image_size
from openpali.data.masks.rle import LazyMask

FRAMES = ("upright", "stored")
UPRIGHT = 1
_TAG = 274
_SIDEWAYS = (5, 6, 7, 8)

Size = tuple[int, int]


def check_frame(frame: str) -> str:
    """The frame itself. Raises ValueError for an unknown one."""
    if frame not in FRAMES:
        raise ValueError(f"orientation is one of {', '.join(FRAMES)}, not {frame!r}")
    return frame


def stored_size(source: Path | bytes) -> tuple[Size, int]:
    """Width and height as an image is stored, and its orientation, from the header alone.

    Raises:
        BadImage: the image cannot be used.
    """
    size = image_size(source)
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        found = image.getexif().get(_TAG, UPRIGHT)
    return size, found if found in range(2, 9) else UPRIGHT


def turned_size(size: Size, orientation: int) -> Size:
    """Width and height after turning; its own inverse."""
    width, height = size
    return (height, width) if orientation in _SIDEWAYS else size


def turned_box(box: Box, orientation: int) -> Box:
    """A box of the stored image in the upright image."""
    corners = [_turned_point(*point, orientation) for point in ((box.x0, box.y0), (box.x1, box.y1))]
    (left, right), (top, bottom) = (sorted(values) for values in zip(*corners))
    return Box(left, top, right, bottom, box.label)


def turned_mask(mask: LazyMask | None, orientation: int) -> LazyMask | None:
    """A mask of the stored image in the upright image, computed on access."""
    if mask is None or orientation == UPRIGHT:
        return mask
    return LazyMask(partial(_turned_array, mask, orientation))


def _turned_point(x: float, y: float, orientation: int) -> tuple[float, float]:
    match orientation:
        case 2:
            return 1 - x, y
        case 3:
            return 1 - x, 1 - y
        case 4:
            return x, 1 - y
        case 5:
            return y, x
        case 6:
            return 1 - y, x
        case 7:
            return 1 - y, 1 - x
        case 8:
            return y, 1 - x
        case _:
            return x, y


def _turned_array(mask: LazyMask, orientation: int) -> np.ndarray:
    array = mask.array
    match orientation:
        case 2:
            array = array[:, ::-1]
        case 3:
            array = array[::-1, ::-1]
        case 4:
            array = array[::-1]
        case 5:
            array = array.T
        case 6:
            array = np.rot90(array, -1)
        case 7:
            array = array[::-1, ::-1].T
        case 8:
            array = np.rot90(array)
    return np.ascontiguousarray(array)
