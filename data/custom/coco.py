"""Custom data as COCO JSON: images, annotations with `bbox` or `caption`, and categories."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openpali.data.custom.readers import Folder, RawData, declared_size
from openpali.data.custom.rows import Row, RowObject, add_problem
from openpali.data.files.annotations import BadValue, id_key, is_whole, read_json, repeated
from openpali.data.records import BadRecord

_TWICE = "Give each image an id of its own: merged files often count from 0 each."


def read_coco(path: Path, image_root: Path | None, kind: str) -> RawData:
    """Rows of a COCO file.

    Images that share an id cannot be used, nor can their annotations. Where annotations belong to no image, an image
    without annotations cannot be used either: it may be theirs.

    Raises:
        BadRecord: the file has another layout.
    """
    content = read_json(path)
    images, annotations = (content.get(key) for key in ("images", "annotations"))
    if not (isinstance(images, list) and isinstance(annotations, list)):
        raise BadRecord(str(path), "all", "images and annotations are not lists", "Give a file of COCO's layout.")
    images = [image for image in images if isinstance(image, dict)]
    folder = Folder(path, image_root, (image.get("file_name") for image in images))
    rows: dict[str, Row] = {}
    twice = repeated(image.get("id") for image in images)
    read = RawData([], coco_classes(content.get("categories"), path))
    for image in images:
        row = Row(str(path), f"image {image.get('id')}", folder.image(image.get("file_name")))
        row.declared = declared_size(image)
        read.rows.append(row)
        key = id_key(image.get("id"))
        if key is None:
            add_problem(row, "id", "it has no id", "Give each image a number.")
        elif key in twice:
            add_problem(row, "id", "another image has the same id", _TWICE)
        else:
            rows[key] = row
    lost = _add_annotations(annotations, rows, twice, kind)
    if lost:
        _report_lost(read, lost, len(annotations), path)
    return read


def _add_annotations(annotations: list[Any], rows: dict[str, Row], twice: set[str], kind: str) -> list[str]:
    """Add its annotations to every row; returns the names of annotations without an image."""
    lost = []
    for number, found in enumerate(annotations):
        found = found if isinstance(found, dict) else {}
        key, name = id_key(found.get("image_id")) or "", f"annotation {found.get('id', f'number {number}')}"
        row = rows.get(key)
        if row is None:
            lost += [] if key in twice else [f"{name} of image {found.get('image_id')!r}"]
        elif kind == "caption":
            row.answers = [*(row.answers or ()), found.get("caption")]
        else:
            mask = found.get("segmentation") if kind == "segment" else None
            crowd = bool(found.get("iscrowd"))
            row.objects.append(RowObject(found.get("category_id"), found.get("bbox"), mask or None, name, crowd))
    return lost


def _report_lost(read: RawData, lost: Sequence[str], total: int, path: Path) -> None:
    """Report annotations without an image, and mark images without annotations as bad."""
    text = f"{path}: {len(lost)} of {total} annotations are of no image of the file, the first is {lost[0]}"
    read.mistakes.append(f"{text}. Fix their image_id, or remove them.")
    for row in read.rows:
        if not row.objects and not row.answers and not row.problems:
            reason = "it has no annotation, and annotations of this file belong to no image"
            add_problem(row, "lost", reason, "Fix their image_id, or remove them.")


def coco_classes(categories: Any, path: Path) -> dict[int, str]:
    """Category id to name.

    Raises:
        BadRecord: a category has no integer id or no name, or two share an id.
    """
    found: dict[int, str] = {}
    for category in categories if isinstance(categories, list) else ():
        try:
            number, name = category_number(category["id"]), str(category["name"])
        except (KeyError, TypeError, BadValue) as error:
            reason = "it has no whole number as id, or no name"
            raise BadRecord(str(path), f"category {category}", reason, "Give both.") from error
        if found.setdefault(number, name) != name:
            reason = f"its id is also that of {found[number]!r}"
            raise BadRecord(str(path), f"category {name!r}", reason, "Give each category an id of its own.")
    return found


def category_number(value: Any) -> int:
    """The integer id of a category. Raises BadValue."""
    key = id_key(value) or ""
    if not key.removeprefix("-").isdecimal() or not is_whole(int(key)):
        raise BadValue(f"{value!r} is not a category id")
    return int(key)
