"""Grey images of more than 8 bits: which of their values is black and which is white.

A TIFF may declare both. Without that, whole numbers up to 255 are taken for 8 bits and up to 65,535 for 16, and
fractions from 0 to 1 for shares of white. Everything else could mean anything, and is refused.
"""

from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin

# tags of a TIFF file: least and largest value of the samples, of any type and of whole numbers
_DECLARED = ((340, 341), (280, 281))
_EIGHT_BITS, _SIXTEEN_BITS = 255, 65535


class UnknownRange(ValueError):
    """Nothing says which value of an image is white. The message has the remedy."""


def is_wide(mode: str) -> bool:
    """Whether the values of images of a mode may go beyond 8 bits."""
    return mode in ("I", "F") or mode.startswith("I;16")


def to_eight_bits(image: Image.Image, stored: Image.Image) -> Image.Image:
    """Grey of 8 bits from grey of 16 or 32 bits, whole or floating-point.

    Args:
        image: its pixels, upright.
        stored: the same as it was opened, which knows what its file declares.

    Raises:
        UnknownRange: the values have no range that is known.
    """
    values = np.asarray(image).astype(np.float64)
    low, high = declared_range(stored) or usual_range(stored, values)
    return Image.fromarray(np.clip(np.rint((values - low) * 255 / (high - low)), 0, 255).astype(np.uint8))


def declared_range(image: Image.Image) -> tuple[float, float] | None:
    """The values of black and white that a TIFF file declares; None where it does not say both."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return None
    for least, largest in _DECLARED:
        found = [_number(image.tag_v2.get(tag)) for tag in (least, largest)]
        if found[0] is not None and found[1] is not None and found[0] < found[1]:
            return found[0], found[1]
    return None


def usual_range(image: Image.Image, values: np.ndarray) -> tuple[float, float]:
    """The values of black and white by what is common for such values. Raises UnknownRange."""
    mode: Any = image.mode
    # these have 16 bits; Pillow scales PGM files to as many, in mode I
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
    told = f"from {low:g} to {high:g}" if low == low else "some of which are not finite"
    raise UnknownRange(f"its pixels are {kind} {told}, and nothing says which is white: save it with 8 or 16 bits")


def _number(value: Any) -> float | None:
    """The value of a tag, which may be one for each channel."""
    value = value[0] if isinstance(value, tuple) and value else value
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
