"""Masks as tokens: four location tokens and sixteen of `<seg000>` to `<seg127>`, and a parser that accepts any text.

The sixteen are codes of the mask tokenizer (`MaskVQVAE`), the 4 x 4 grid of the box row by row. A label may follow;
several masks are joined by " ; " (PaliGemma's code, big_vision).
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from .location_tokens import LocatedBox, Rejected, clean_label, format_box, read_box, read_parts

SEGMENTATION_CODES = 128
CODES_PER_MASK = 16

_CODE = re.compile(r"<seg([0-9]{3})>")
_SEGMENTATION = re.compile(r"((?:<loc[0-9]{4}>\s*)+)((?:<seg[0-9]{3}>\s*)*)(.*)", re.DOTALL)


class LocatedMask(NamedTuple):
    """A mask in a box: `codes` are 16 integers below 128; the box has the label, which may be empty."""

    box: LocatedBox
    codes: tuple[int, ...]


class Segmentations(NamedTuple):
    """Output of `parse_segmentations`: masks in the order of the text, and the parts that cannot be used."""

    masks: list[LocatedMask]
    rejected: list[Rejected]


def format_codes(codes: Iterable[int]) -> str:
    """The sixteen tokens of a mask.

    >>> format_codes([7] * 16)[:16]
    '<seg007><seg007>'

    Raises:
        ValueError: there are not 16, or one is not in 0 to 127.
    """
    codes = [int(code) for code in codes]
    if len(codes) != CODES_PER_MASK or min(codes) < 0 or max(codes) >= SEGMENTATION_CODES:
        raise ValueError(f"a mask is {CODES_PER_MASK} codes from 0 to {SEGMENTATION_CODES - 1}, not {codes}")
    return "".join(f"<seg{code:03d}>" for code in codes)


def format_segmentations(masks: Iterable[LocatedMask]) -> str:
    """The target of `segment`: tokens, and the label where there is one, of each mask, joined by " ; ".

    Raises:
        ValueError: codes out of range, or a label that cannot be parsed.
    """
    parts = (f"{format_box(box)}{format_codes(codes)} {clean_label(box.label)}".rstrip() for box, codes in masks)
    return " ; ".join(parts)


def parse_segmentations(text: str) -> Segmentations:
    """Parse a model's answer to `segment`, or to a referring segmentation. No text raises an error.

    A part between semicolons is a mask if it is four location tokens of a box with y1 < y2 and x1 < x2, exactly
    sixteen segmentation tokens, and possibly a label without tokens; space between tokens is ignored. All other parts
    are returned in `rejected` with the reason; an empty text has no parts.
    """
    return Segmentations(*read_parts(text, _read_segmentation))


def _read_segmentation(part: str) -> LocatedMask | str:
    """The mask of one part, or the reason to reject it."""
    match = _SEGMENTATION.fullmatch(part)
    if match is None:
        return "it does not begin with location tokens" if part else "it is empty"
    box = read_box(match[1], match[3])
    if isinstance(box, str):
        return box
    codes = tuple(int(digits) for digits in _CODE.findall(match[2]))
    if len(codes) != CODES_PER_MASK:
        return f"it has {len(codes)} segmentation tokens instead of {CODES_PER_MASK}"
    if max(codes) >= SEGMENTATION_CODES:
        return f"<seg{max(codes):03d}> is beyond <seg{SEGMENTATION_CODES - 1:03d}>"
    return LocatedMask(box, codes)
