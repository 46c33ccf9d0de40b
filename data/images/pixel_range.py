"""Black and white values of grey images of more than 8 bits.

A TIFF may declare both. Otherwise integers up to 255 count as 8 bits and up to 65,535 as 16 bits, and floats in [0, 1]
as shares of white. Other values are ambiguous and rejected.
"""

from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin

# TIFF tags SMinSampleValue and SMaxSampleValue, MinSampleValue and MaxSampleValue
_DECLARED = ((340, 341), (280, 281))
_EIGHT_BITS, _SIXTEEN_BITS = 255, 65535


class UnknownRange(ValueError):
    """The white value of an image is not known. The message has the remedy."""


def is_wide(mode: str) -> bool:
    """Whether a mode of Pillow has more than 8 bits."""
    return mode in ("I", "F") or mode.startswith("I;16")


def to_eight_bits(image: Image.Image, stored: Image.Image) -> Image.Image:
    """8-bit grey of a grey image of 16 or 32 bits, integer or floating-point.

    Args:
        image: upright.
        stored: the same image as opened, with the tags of its file.

    Raises:
        UnknownRange: the range of the values is not known.
    """
    values = np.asarray(image).astype(np.float64)
    low, high = declared_range(stored) or usual_range(stored, values)
    return Image.fromarray(np.clip(np.rint((values - low) * 255 / (high - low)), 0, 255).astype(np.uint8))


def declared_range(image: Image.Image) -> tuple[float, float] | None:
    """The black and white values that a TIFF file declares; None without both."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return None
    for least, largest in _DECLARED:
        found = [_number(image.tag_v2.get(tag)) for tag in (least, largest)]
        if found[0] is not None and found[1] is not None and found[0] < found[1]:
            return found[0], found[1]
    return None


def usual_range(image: Image.Image, values: np.ndarray) -> tuple[float, float]:
    """The usual black and white values for such values. Raises UnknownRange."""
    mode: Any = image.mode
    # these have 16 bits; Pillow scales PGM files to 16 bits in mode I
    if mode.startswith("I;16") or image.format in ("PNG", "PPM"):
        return 0.0, _SIXTEEN_BITS
    low, high = (float(values.min()), float(values.max())) if np.isfinite(values).all() else (np.nan, np.nan)
    if low >= 0 and high <= _SIXTEEN_BITS:
        if mode == "F" and high <= 1:
            return 0.0, 1.0
        if high <= _EIGHT_BITS:
            return 0.0, _EIGHT_BITS
        if mode == "I":
            return 0.0, _SIXTEEN_BITS
    kind = "floating-point numbers" if mode == "F" else "whole numbers of 32 bits"
    span = f"from {low:g} to {high:g}" if low == low else "some of which are not finite"
    raise UnknownRange(f"its pixels are {kind} {span}, and nothing says which is white: save it with 8 or 16 bits")


def _number(value: Any) -> float | None:
    """The value of a tag, the first one of several channels."""
    value = value[0] if isinstance(value, tuple) and value else value
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
