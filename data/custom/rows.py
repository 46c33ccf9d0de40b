"""A record of custom data as a row, and its problems; no value is corrected silently."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from openpali.data.example import Box
from openpali.data.files.annotations import BadValue, checked_box
from openpali.data.images.open_image import BadImage, load_image
from openpali.data.images.orientation import UPRIGHT, stored_size, turned_size
from openpali.data.records import BadRecord

KINDS = ("detect", "segment", "caption", "vqa", "classify", "ocr")
REGION_KINDS = ("detect", "segment")
BOX_FORMATS = ("xywh", "xyxy", "cxcywh", "yxyx")
RELATIVE = "_relative"


class UnreadableRecord(BadValue):
    """The reason why a record could not be read at all."""


class EncodedImage(Protocol):
    """An image that is not decoded yet."""

    @property
    def name(self) -> str:
        """Its name in messages."""
        ...

    def content(self) -> bytes:
        """The encoded image. Raises OSError."""
        ...


@dataclass(frozen=True, slots=True)
class ImageOnDisk:
    """An image in a file."""

    path: Path
    name: str

    def content(self) -> bytes:
        """The bytes of the file."""
        return self.path.read_bytes()


@dataclass(slots=True)
class RowObject:
    """An object as in its file, unchecked.

    Attributes:
        label: name or number of a class.
        box: four numbers in the format of the file.
        segmentation: COCO's polygons or RLE; None without.
        record: its name in messages, where it differs from that of the row.
        crowd: whether it stands for a group (COCO's `iscrowd`).
    """

    label: Any
    box: Any
    segmentation: Any = None
    record: str = ""
    crowd: bool = False


@dataclass(slots=True)
class Row:
    """A record as in its file, unchecked.

    Attributes:
        file: its file.
        record: its line, key or number within the file.
        image: the image, or the reason and remedy where there is none.
        question: for `vqa`.
        answers: captions, answers, a label or a text; one or several.
        objects: for `detect` and `segment`.
        declared: width and height by the file.
        size: width and height of the image as annotated; None until `inspect_image`.
        turn: EXIF orientation of the image; 1 is upright.
        digest: of the image's content; empty until `inspect_image`.
        levels: darkest and brightest grey, 0 to 255; None until the image is decoded.
        problems: reasons why the record cannot be used.
        shares: boxes (left, top, width, height) and polygons are shares of the image's sides, until `to_pixels`; then
            they fit the image in any orientation.
    """

    file: str
    record: str
    image: EncodedImage | BadValue
    question: Any = None
    answers: Any = None
    objects: list[RowObject] = field(default_factory=list)
    declared: tuple[int, int] | None = None
    size: tuple[int, int] | None = None
    turn: int = UPRIGHT
    digest: str = ""
    levels: tuple[int, int] | None = None
    problems: list["Problem"] = field(default_factory=list)
    shares: bool = False


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem of a record, and the name of the check that groups similar ones."""

    check: str
    bad: BadRecord


def add_problem(row: Row, check: str, reason: str, remedy: str, record: str = "") -> None:
    """Add a reason why a row cannot be used."""
    row.problems.append(Problem(check, BadRecord(row.file, record or row.record, reason, remedy)))


def inspect_image(row: Row, decode: bool, frame: str = "upright") -> None:
    """Read a row's image, and note its size and digest, or its problem.

    Args:
        row: is changed.
        decode: decode the image, not only its header.
        frame: orientation of the annotations, `upright` or as `stored`.
    """
    if isinstance(row.image, BadValue):
        check = "line" if isinstance(row.image, UnreadableRecord) else "image"
        add_problem(row, check, row.image.reason, row.image.remedy)
        return
    try:
        content = row.image.content()
        row.digest = sha256(content).hexdigest()
        size, row.turn = stored_size(content)
        row.size = size if frame == "stored" else turned_size(size, row.turn)
        if decode:
            dark, bright = load_image(content).convert("L").getextrema()
            row.levels = int(str(dark)), int(str(bright))
    except (OSError, BadImage) as error:
        row.size = None
        reason = str(error).replace("the image data", row.image.name)
        add_problem(row, "image", reason, "" if isinstance(error, BadImage) else "Check the file.")


def to_pixels(row: Row) -> None:
    """Turn shares of the sides into pixels of the annotated image, once its size is known."""
    if not row.shares or row.size is None:
        return
    sides = row.size
    for item in row.objects:
        item.box = [value * sides[place % 2] for place, value in enumerate(item.box)]
        if item.segmentation is not None:
            item.segmentation = [
                [value * sides[place % 2] for place, value in enumerate(polygon)] for polygon in item.segmentation
            ]


def check_size(row: Row, annotated: bool) -> None:
    """Note a declared size that is not the image's.

    Args:
        row: after `inspect_image`.
        annotated: there are boxes, so that the orientation matters.
    """
    if isinstance(row.image, BadValue) or not (row.size and row.declared) or row.declared == row.size:
        return
    remedy = "Give the image that was annotated, or fix width and height."
    if row.turn != UPRIGHT and row.declared == turned_size(row.size, row.turn):
        if not annotated:
            return
        remedy = "EXIF turns it: see --orientation."
    declared, found = ("x".join(map(str, size)) for size in (row.declared, row.size))
    add_problem(row, "size", f"{row.image.name} is {found} pixels and the file says {declared}", remedy)


def read_box(box: Any, form: str, size: tuple[int, int], label: str = "", clip: bool = False) -> Box:
    """A box of a file.

    Args:
        box: four numbers.
        form: one of `BOX_FORMATS`, in pixels; with the suffix `_relative`, in [0, 1].
        size: width and height of the image.
        label: for the box.
        clip: clip it to the image, however far it reaches outside.

    Raises:
        BadValue: it is not a box of this image.
    """
    width, height = size
    # not swapped: x0 > x1 means another format
    return checked_box(list(corners(box, form, size)), height, width, label, clip)


def corners(box: Any, form: str, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Left, top, width and height in pixels. Raises BadValue unless there are four finite numbers."""
    try:
        a, b, c, d = (float(value) for value in box)
    except (TypeError, ValueError) as error:
        raise BadValue(f"its box {box!r} is not four numbers", "Give four numbers.") from error
    if not all(map(math.isfinite, (a, b, c, d))):
        raise BadValue(f"its box {box!r} is not four numbers", "Give four finite numbers.")
    if form.endswith(RELATIVE):
        across, down = (size[1], size[0]) if form.startswith("y") else size
        a, b, c, d = a * across, b * down, c * across, d * down
    match form.removesuffix(RELATIVE):
        case "xyxy":
            return a, b, c - a, d - b
        case "yxyx":
            return b, a, d - b, c - a
        case "cxcywh":
            return a - c / 2, b - d / 2, c, d
        case _:
            return a, b, c, d


def texts(value: Any) -> list[str]:
    """Stripped, non-empty texts of a text, a number, a dict with `answer`, `text` or `caption`, or a list of these."""
    if isinstance(value, dict):
        value = next((value[key] for key in ("answer", "text", "caption", "label") if key in value), None)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [text for item in value for text in texts(item)]
    if value is None or isinstance(value, float) and math.isnan(value):
        return []
    return [text] if (text := str(value).strip()) else []
