"""What records of custom data say, and what is wrong with one: nothing is mended in silence."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from openpali.data.example import Box
from openpali.data.files.annotations import BadPart, checked_box
from openpali.data.images.open_image import BadImage, load_image
from openpali.data.images.orientation import UPRIGHT, stored_size, turned_size
from openpali.data.records import BadRecord

KINDS = ("detect", "segment", "caption", "vqa", "classify", "ocr")
REGION_KINDS = ("detect", "segment")
BOX_FORMATS = ("xywh", "xyxy", "cxcywh", "yxyx")
RELATIVE = "_relative"


class BadLine(BadPart):
    """What is wrong with a record that could not be read at all."""


class ImageLike(Protocol):
    """Where an image is, before it is decoded."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    def content(self) -> bytes:
        """The encoded image. Raises OSError."""
        ...


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image in a file."""

    path: Path
    name: str

    def content(self) -> bytes:
        """Of the file."""
        return self.path.read_bytes()


@dataclass(slots=True)
class RowObject:
    """A box as it stands in a file.

    Attributes:
        label: name, or number of a class.
        box: four numbers in the format of the file.
        outline: COCO's polygons or run lengths; None without.
        record: names it in messages, where it has a name of its own.
        crowd: it stands for many things.
    """

    label: Any
    box: Any
    outline: Any = None
    record: str = ""
    crowd: bool = False


@dataclass(slots=True)
class Row:
    """A record as it stands in a file; nothing in it has been checked.

    Attributes:
        file: which file.
        record: its line, key or number within the file.
        image: where its image is; the reason and remedy where it is nowhere.
        question: of `vqa`.
        answers: captions, answers, a label or a text; one or several.
        objects: of `detect` and `segment`.
        declared: width and height that the file says.
        size: width and height of the image as it was annotated; None until `look`.
        turn: EXIF's orientation of the image; 1 is upright.
        digest: of the image's content; empty until `look`.
        levels: darkest and brightest grey of 255; None until it is decoded.
        problems: what makes the record of no use.
    """

    file: str
    record: str
    image: ImageLike | BadPart
    question: Any = None
    answers: Any = None
    objects: list[RowObject] = field(default_factory=list)
    declared: tuple[int, int] | None = None
    size: tuple[int, int] | None = None
    turn: int = UPRIGHT
    digest: str = ""
    levels: tuple[int, int] | None = None
    problems: list["Problem"] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a record, under a name by which like ones are counted."""

    check: str
    bad: BadRecord


def problem(row: Row, check: str, reason: str, remedy: str, record: str = "") -> None:
    """Note that a row cannot be used."""
    row.problems.append(Problem(check, BadRecord(row.file, record or row.record, reason, remedy)))


def look(row: Row, decode: bool, frame: str = "upright") -> None:
    """Read a row's image: its size and digest, or what is wrong with it.

    Args:
        row: takes them.
        decode: the image, and not its header alone.
        frame: whether it was annotated `upright`, or as it is `stored`.
    """
    if isinstance(row.image, BadPart):
        check = "line" if isinstance(row.image, BadLine) else "image"
        problem(row, check, row.image.reason, row.image.remedy)
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
        problem(row, "image", reason, "" if isinstance(error, BadImage) else "Check the file.")


def check_size(row: Row, annotated: bool) -> None:
    """Note a size that the file says and the image has not.

    Args:
        row: whose image was looked at.
        annotated: there are boxes, for which it matters how EXIF turns the image.
    """
    if isinstance(row.image, BadPart) or not (row.size and row.declared) or row.declared == row.size:
        return
    remedy = "Give the image that was annotated, or mend width and height."
    if row.turn != UPRIGHT and row.declared == turned_size(row.size, row.turn):
        if not annotated:
            return
        remedy = "EXIF turns it: see --orientation."
    told, found = ("x".join(map(str, size)) for size in (row.declared, row.size))
    problem(row, "size", f"{row.image.name} is {found} pixels and the file says {told}", remedy)


def read_box(box: Any, form: str, size: tuple[int, int], label: str = "", clip: bool = False) -> Box:
    """A box of a file.

    Args:
        box: four numbers.
        form: one of `BOX_FORMATS`; with `_relative` behind it, they are shares of the image's sides.
        size: width and height of the image.
        label: for the box.
        clip: it to the image, however far it reaches outside.

    Raises:
        BadPart: it is no box of this image.
    """
    width, height = size
    # turned around on the way: whoever gives x0 > x1 has another format
    return checked_box(list(corners(box, form, size)), height, width, label, clip)


def corners(box: Any, form: str, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Left, top, width and height in pixels. Raises BadPart unless there are four finite numbers."""
    try:
        a, b, c, d = (float(value) for value in box)
    except (TypeError, ValueError) as error:
        raise BadPart(f"its box {box!r} is not four numbers", "Give four numbers.") from error
    if not all(map(math.isfinite, (a, b, c, d))):
        raise BadPart(f"its box {box!r} is not four numbers", "Give four finite numbers.")
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
    """Answers as a list of stripped texts, empty ones left out.

    They may be a text, a number, a list of these, or of objects with `answer`, `text` or `caption` as in VQAv2.
    """
    if isinstance(value, dict):
        value = next((value[key] for key in ("answer", "text", "caption", "label") if key in value), None)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [text for item in value for text in texts(item)]
    if value is None or isinstance(value, float) and math.isnan(value):
        return []
    return [text] if (text := str(value).strip()) else []
