"""Boxes as location tokens, `<loc0000>` to `<loc1023>`, and a parser of a model's text that accepts any text.

A coordinate x in [0, 1] is the token round(1023 x), halves to even; a box is four tokens in the order y1 x1 y2 x2; a
detection is a box and its label; several detections are joined by " ; " (PaliGemma's code, big_vision).
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

LOCATION_BINS = 1024
# the confidence of a detection, directly behind its label where a model was trained to write one: 0 or 1 as a place
UNSURE, SURE = "<loc0000>", "<loc1023>"
# the label of boxes that are on no object, which a model is trained to tell apart (Pix2Seq, arXiv 2109.10852)
NOISE = "noise"

_SEPARATOR = ";"
_LOCATION = re.compile(r"<loc([0-9]{4})>")
_TOKEN = re.compile(r"<(?:loc[0-9]{4}|seg[0-9]{3})>")
_CONFIDENCE = re.compile(rf"(?<=[^\s;>])\s*(?:{UNSURE}|{SURE})(?=\s*(?:;|$))")
_DETECTION = re.compile(r"((?:<loc[0-9]{4}>\s*)+)(.*)", re.DOTALL)

Parsed = TypeVar("Parsed")


class LocatedBox(NamedTuple):
    """A labelled box, y before x, in coordinates normalised to [0, 1], origin at the top left.

    Constructors and methods name the notation that they convert, since four numbers do not show it:
    `LocatedBox.from_coco_xywh([5, 10, 20, 20], width=100, height=50).pixel_xyxy(200, 100)`.
    """

    y1: float
    x1: float
    y2: float
    x2: float
    label: str = ""

    @classmethod
    def from_normalised_xyxy(cls, box: Sequence[float], label: str = "") -> "LocatedBox":
        """From left, top, right and bottom in [0, 1]. Raises ValueError unless they are four finite numbers."""
        x1, y1, x2, y2 = _four_numbers(box)
        return cls(y1, x1, y2, x2, label)

    @classmethod
    def from_pixel_xyxy(cls, box: Sequence[float], width: int, height: int, label: str = "") -> "LocatedBox":
        """From left, top, right and bottom edges in pixels of an image of that size; see `from_normalised_xyxy`."""
        x1, y1, x2, y2 = _four_numbers(box)
        return cls(y1 / height, x1 / width, y2 / height, x2 / width, label)

    @classmethod
    def from_coco_xywh(cls, box: Sequence[float], width: int, height: int, label: str = "") -> "LocatedBox":
        """From COCO's left, top, width and height in pixels. Raises ValueError also for negative extents."""
        x, y, wide, high = _four_numbers(box)
        if wide < 0 or high < 0:
            raise ValueError(f"COCO box {list(box)} has a negative width or height; is it left, top, right, bottom?")
        return cls.from_pixel_xyxy((x, y, x + wide, y + high), width, height, label)

    def normalised_xyxy(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom in [0, 1]."""
        return self.x1, self.y1, self.x2, self.y2

    def pixel_xyxy(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Left, top, right and bottom edges in pixels of an image of that size, not rounded."""
        return self.x1 * width, self.y1 * height, self.x2 * width, self.y2 * height

    def coco_xywh(self, width: int, height: int) -> tuple[float, float, float, float]:
        """COCO's left, top, width and height in pixels of an image of that size, not rounded."""
        x1, y1, x2, y2 = self.pixel_xyxy(width, height)
        return x1, y1, x2 - x1, y2 - y1


class Rejected(NamedTuple):
    """A part of a model's text that cannot be used, and the reason."""

    text: str
    reason: str


class Detections(NamedTuple):
    """Output of `parse_detections`: boxes in the order of the text, and the parts that cannot be used."""

    boxes: list[LocatedBox]
    rejected: list[Rejected]


def location_token(coordinate: float) -> str:
    """The token of a coordinate; values outside [0, 1] are clipped.

    >>> location_token(0.5)
    '<loc0512>'

    Raises:
        ValueError: the coordinate is NaN.
    """
    if coordinate != coordinate:
        raise ValueError("a coordinate is not a number (NaN)")
    clipped = min(max(coordinate, 0.0), 1.0)
    return f"<loc{round(clipped * (LOCATION_BINS - 1)):04d}>"


def location_value(token: str) -> float:
    """The coordinate of a token.

    Raises:
        ValueError: it is not one of the 1024 location tokens.
    """
    match = _LOCATION.fullmatch(token)
    if match is None or int(match[1]) >= LOCATION_BINS:
        raise ValueError(f"{token!r} is not a location token")
    return int(match[1]) / (LOCATION_BINS - 1)


def format_box(box: LocatedBox) -> str:
    """The four tokens of a box, in the order y1 x1 y2 x2, without its label."""
    return "".join(location_token(coordinate) for coordinate in box[:4])


def format_detections(boxes: Iterable[LocatedBox]) -> str:
    """The target of `detect`: tokens and label of each box, joined by " ; ".

    A box thinner than the step of a token (1/1023) may become empty, which the parser rejects.

    Raises:
        ValueError: a label is empty, or holds a semicolon or a token, so that it cannot be parsed.
    """
    parts = []
    for box in boxes:
        label = clean_label(box.label)
        if not label:
            raise ValueError("a detection needs a label, and this one's is empty")
        parts.append(f"{format_box(box)} {label}")
    return f" {_SEPARATOR} ".join(parts)


def with_confidences(target: str, confidence: Callable[[], str] = lambda: SURE) -> str:
    """The target of `format_detections` with a confidence behind each label, `SURE` or `UNSURE`."""
    parts = target.split(f" {_SEPARATOR} ") if target else []
    return f" {_SEPARATOR} ".join(part + confidence() for part in parts)


def without_confidences(text: str) -> str:
    """A model's text without the confidences behind its labels."""
    return _CONFIDENCE.sub("", text)


def clean_label(label: str) -> str:
    """A label without surrounding space. Raises ValueError if it cannot be parsed in a model's text."""
    if _SEPARATOR in label or _TOKEN.search(label):
        raise ValueError(f"{label!r} cannot be a label: it holds a semicolon, a location or a segmentation token")
    return label.strip()


def parse_detections(text: str, labelled: bool = True) -> Detections:
    """Parse a model's answer to `detect`. No text raises an error.

    A part between semicolons is a detection if it is exactly four location tokens (space between them is ignored:
    some tokenizers write it) of a box with y1 < y2 and x1 < x2, and a label without tokens. Answers to referring
    expressions have no label: `labelled=False` accepts them. All other parts are returned in `rejected` with the
    reason; an empty text has no parts.
    """
    return Detections(*read_parts(text, partial(_read_detection, labelled=labelled)))


def read_parts(text: str, read: Callable[[str], Parsed | str]) -> tuple[list[Parsed], list[Rejected]]:
    """Parse each part between semicolons.

    Args:
        text: of a model; text of nothing but space has no parts.
        read: parses a part, or returns the reason to reject it.
    """
    parsed, rejected = [], []
    for part in text.split(_SEPARATOR) if text.strip() else []:
        result = read(part.strip())
        if isinstance(result, str):
            rejected.append(Rejected(part.strip(), result))
        else:
            parsed.append(result)
    return parsed, rejected


def read_box(tokens: str, label: str) -> LocatedBox | str:
    """The box of a run of location tokens and a label, which may be empty, or the reason to reject them."""
    bins = [int(digits) for digits in _LOCATION.findall(tokens)]
    if len(bins) != 4:
        return f"it has {len(bins)} location tokens instead of 4"
    if max(bins) >= LOCATION_BINS:
        return f"<loc{max(bins):04d}> is beyond <loc{LOCATION_BINS - 1:04d}>"
    if bins[0] >= bins[2] or bins[1] >= bins[3]:
        return "the box is empty: y1 < y2 and x1 < x2 are needed"
    if _TOKEN.search(label):
        return "its label holds location or segmentation tokens"
    y1, x1, y2, x2 = (value / (LOCATION_BINS - 1) for value in bins)
    return LocatedBox(y1, x1, y2, x2, label)


def _read_detection(part: str, labelled: bool) -> LocatedBox | str:
    """The box of one part, or the reason to reject it."""
    match = _DETECTION.fullmatch(part)
    if match is None:
        return "it does not begin with location tokens" if part else "it is empty"
    box = read_box(match[1], match[2])
    return box if isinstance(box, str) or box.label or not labelled else "it has no label"


def _four_numbers(box: Sequence[float]) -> tuple[float, float, float, float]:
    if len(box) != 4 or not all(math.isfinite(value) for value in box):
        raise ValueError(f"a box is four finite numbers, not {list(box)}")
    first, second, third, fourth = (float(value) for value in box)
    return first, second, third, fourth
