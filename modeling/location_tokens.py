"""Boxes as tokens: `<loc0000>` to `<loc1023>`, and a reader of what a model writes that accepts any text.

A coordinate in [0, 1] is the token round(1023 x), halves to even; a box is four tokens in the order y1 x1 y2 x2, a
detection is a box and its label, and several are joined by " ; " (PaliGemma's reference code, big_vision).
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

LOCATION_BINS = 1024

_SEPARATOR = ";"
_TOKEN = re.compile(r"<loc([0-9]{4})>")
_DETECTION = re.compile(r"((?:<loc[0-9]{4}>\s*)+)(.*)", re.DOTALL)


class LocatedBox(NamedTuple):
    """A labelled box, y before x, in coordinates normalised to [0, 1], origin at the top left."""

    y1: float
    x1: float
    y2: float
    x2: float
    label: str = ""


class RejectedDetection(NamedTuple):
    """A part of a model's text that is no detection, and why."""

    text: str
    reason: str


class Detections(NamedTuple):
    """What `parse_detections` read: boxes in the order of the text, and the parts that it could not use."""

    boxes: list[LocatedBox]
    rejected: list[RejectedDetection]


def location_token(coordinate: float) -> str:
    """The token of a coordinate; values outside [0, 1] are clipped.

    >>> location_token(0.5)
    '<loc0512>'

    Raises:
        ValueError: not a number.
    """
    if coordinate != coordinate:
        raise ValueError("a coordinate is not a number (NaN)")
    clipped = min(max(coordinate, 0.0), 1.0)
    return f"<loc{round(clipped * (LOCATION_BINS - 1)):04d}>"


def location_value(token: str) -> float:
    """The coordinate of a token.

    Raises:
        ValueError: not one of the 1024 location tokens.
    """
    match = _TOKEN.fullmatch(token)
    if match is None or int(match[1]) >= LOCATION_BINS:
        raise ValueError(f"{token!r} is not a location token")
    return int(match[1]) / (LOCATION_BINS - 1)


def format_box(box: LocatedBox) -> str:
    """The four tokens of a box, in the order y1 x1 y2 x2, without its label."""
    return "".join(location_token(coordinate) for coordinate in box[:4])


def format_detections(boxes: Iterable[LocatedBox]) -> str:
    """The target of `detect`: tokens and label of each box, joined by " ; ".

    Raises:
        ValueError: a label is empty, or holds a semicolon or a location token and could not be read back.
    """
    parts = []
    for box in boxes:
        label = box.label.strip()
        if not label or _SEPARATOR in label or _TOKEN.search(label):
            raise ValueError(f"{box.label!r} cannot be the label of a detection")
        parts.append(f"{format_box(box)} {label}")
    return f" {_SEPARATOR} ".join(parts)


def parse_detections(text: str) -> Detections:
    """Read a model's answer to `detect`. No text makes it raise.

    A part between semicolons is a detection when it is exactly four location tokens, of a box with y1 < y2 and
    x1 < x2, and a label. Everything else is returned in `rejected` with the reason; an empty text is no part.
    """
    boxes: list[LocatedBox] = []
    rejected: list[RejectedDetection] = []
    for part in text.split(_SEPARATOR) if text.strip() else []:
        found = _read_detection(part.strip())
        if isinstance(found, LocatedBox):
            boxes.append(found)
        else:
            rejected.append(RejectedDetection(part.strip(), found))
    return Detections(boxes, rejected)


def _read_detection(part: str) -> LocatedBox | str:
    """The box of one part, or why it has none."""
    match = _DETECTION.fullmatch(part)
    if match is None:
        return "it does not begin with location tokens" if part else "it is empty"
    bins = [int(digits) for digits in _TOKEN.findall(match[1])]
    label = match[2].strip()
    if len(bins) != 4:
        return f"it has {len(bins)} location tokens instead of 4"
    if max(bins) >= LOCATION_BINS:
        return f"<loc{max(bins):04d}> is beyond <loc{LOCATION_BINS - 1:04d}>"
    if bins[0] >= bins[2] or bins[1] >= bins[3]:
        return "the box is empty: y1 < y2 and x1 < x2 are needed"
    if not label:
        return "it has no label"
    if _TOKEN.search(label):
        return "its label holds location tokens"
    y1, x1, y2, x2 = (value / (LOCATION_BINS - 1) for value in bins)
    return LocatedBox(y1, x1, y2, x2, label)
