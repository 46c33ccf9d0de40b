"""What records of people's own data say, and what is wrong with one: nothing is mended in silence."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from openpali.data.example import Box
from openpali.data.images import BadImage, image_size, load_image
from openpali.data.records import BadRecord
from openpali.data.sources.annotations import BadPart, checked_box
from openpali.modeling.location_tokens import clean_label

KINDS = ("detect", "segment", "caption", "vqa", "classify", "ocr")
REGION_KINDS = ("detect", "segment")
BOX_FORMATS = ("xywh", "xyxy", "cxcywh", "yxyx")
RELATIVE = "_relative"
_ORIENTATION, _TURNED = 274, (5, 6, 7, 8)


class Picture(Protocol):
    """Where a picture is, before it is decoded."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    def content(self) -> bytes:
        """The encoded picture. Raises OSError."""
        ...


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A picture in a file."""

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
        picture: where its picture is; the reason and remedy where it is nowhere.
        question: of `vqa`.
        answers: captions, answers, a label or a text; one or several.
        objects: of `detect` and `segment`.
        declared: width and height that the file says.
        size: width and height of the picture, upright; None until `look`.
        digest: of the picture's content; empty until `look`.
        problems: what makes the record of no use.
    """

    file: str
    record: str
    picture: Picture | BadPart
    question: Any = None
    answers: Any = None
    objects: list[RowObject] = field(default_factory=list)
    declared: tuple[int, int] | None = None
    size: tuple[int, int] | None = None
    digest: str = ""
    problems: list["Problem"] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a record, under a name by which like ones are counted."""

    check: str
    bad: BadRecord


def problem(row: Row, check: str, reason: str, remedy: str, record: str = "") -> None:
    """Note that a row cannot be used."""
    row.problems.append(Problem(check, BadRecord(row.file, record or row.record, reason, remedy)))


def look(row: Row, decode: bool) -> None:
    """Read a row's picture: its size and digest, or what is wrong with it."""
    if isinstance(row.picture, BadPart):
        problem(row, "picture", row.picture.reason, row.picture.remedy)
        return
    try:
        content = row.picture.content()
        row.digest = sha256(content).hexdigest()
        row.size = load_image(content).size if decode else upright_size(content)
    except (OSError, BadImage) as error:
        reason = str(error).replace("the image data", row.picture.name)
        problem(row, "picture", reason, "" if isinstance(error, BadImage) else "Check the file.")
        return
    if row.declared and row.declared != row.size:
        turned = row.declared == row.size[::-1]
        why = " (it may be stored turned, by its EXIF orientation)" if turned else ""
        problem(
            row,
            "size",
            f"{row.picture.name} is {row.size[0]}x{row.size[1]} pixels and the file says"
            f" {row.declared[0]}x{row.declared[1]}{why}",
            "Give the picture that was annotated, or mend width and height.",
        )


def upright_size(content: bytes) -> tuple[int, int]:
    """Width and height after turning as EXIF says, from the header alone. Raises BadImage."""
    width, height = image_size(content)
    with Image.open(io.BytesIO(content)) as image:
        turned = image.getexif().get(_ORIENTATION) in _TURNED
    return (height, width) if turned else (width, height)


def read_box(box: Any, form: str, size: tuple[int, int], label: str = "") -> Box:
    """A box of a file.

    Args:
        box: four numbers.
        form: one of `BOX_FORMATS`; with `_relative` behind it, they are shares of the picture's sides.
        size: width and height of the picture.
        label: for the box.

    Raises:
        BadPart: it is no box of this picture.
    """
    width, height = size
    # turned around on the way: whoever gives x0 > x1 has another format
    return checked_box(list(corners(box, form, size)), height, width, label)


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


def label_of(value: Any, class_names: dict[int, str], offset: int = 0) -> str:
    """The name of a class, given by name or by number.

    Raises:
        BadPart: there is no such class, or its name could not be read back from a model's answer.
    """
    named = value
    if not isinstance(value, str) or class_names and value.isdigit():
        named = class_names.get(class_number(value, class_names, offset), "")
    try:
        named = clean_label(named)
    except ValueError as error:
        raise BadPart(str(error), "Rename the class.") from error
    if not named:
        raise BadPart("its label is empty", "Give each object the name of its class.")
    return named


def class_number(value: Any, class_names: dict[int, str], offset: int) -> int:
    """The number of a class that has a name. Raises BadPart."""
    try:
        number = int(value) + offset
    except (TypeError, ValueError) as error:
        raise BadPart(f"its label is {value!r}", "Give a name, or the number of a class.") from error
    if not class_names:
        raise BadPart(
            f"its label is the number {number}, and nothing names the classes", "Give --classes NAME NAME ..."
        )
    if number not in class_names:
        known = f"{min(class_names)} to {max(class_names)}"
        raise BadPart(f"its class {number} is not among the classes, which are {known}", "Mend it, or add the class.")
    return number
