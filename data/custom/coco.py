"""COCO's JSON as people have it: images, annotations with `bbox` or `caption`, and categories."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openpali.data.custom.readers import Folder, Read, declared_size
from openpali.data.custom.rows import Row, RowObject, problem
from openpali.data.files.annotations import BadPart, id_key, is_whole, read_json, repeated
from openpali.data.records import BadRecord

_TWICE = "Give each image an id of its own: files that are joined often count from 0 each."


def read_coco(path: Path, image_root: Path | None, kind: str) -> Read:
    """Rows of a COCO file.

    An image with the id of another one cannot be used, nor can the annotations of either. Of annotations that belong
    to no image nobody knows what they are on, so that an image without any is not taken for an empty one.

    Raises:
        BadRecord: it is no such file.
    """
    content = read_json(path)
    images, annotations = (content.get(key) for key in ("images", "annotations"))
    if not (isinstance(images, list) and isinstance(annotations, list)):
        raise BadRecord(str(path), "all", "images and annotations are no lists", "Give a file of COCO's layout.")
    images = [image for image in images if isinstance(image, dict)]
    folder = Folder(path, image_root, (image.get("file_name") for image in images))
    rows: dict[str, Row] = {}
    twice = repeated(image.get("id") for image in images)
    read = Read([], coco_classes(content.get("categories"), path))
    for image in images:
        row = Row(str(path), f"image {image.get('id')}", folder.image(image.get("file_name")))
        row.declared = declared_size(image)
        read.rows.append(row)
        key = id_key(image.get("id"))
        if key is None:
            problem(row, "id", "it has no id", "Give each image a number.")
        elif key in twice:
            problem(row, "id", "another image has the same id", _TWICE)
        else:
            rows[key] = row
    lost = _add_annotations(annotations, rows, twice, kind)
    if lost:
        _report_lost(read, lost, len(annotations), path)
    return read


def _add_annotations(annotations: list[Any], rows: dict[str, Row], twice: set[str], kind: str) -> list[str]:
    """Give every row its annotations; the names of those that belong to none."""
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
            outline = found.get("segmentation") if kind == "segment" else None
            crowd = bool(found.get("iscrowd"))
            row.objects.append(RowObject(found.get("category_id"), found.get("bbox"), outline or None, name, crowd))
    return lost


def _report_lost(read: Read, lost: Sequence[str], total: int, path: Path) -> None:
    """An error, and a reason to leave out the images on which nothing is known to be."""
    text = f"{path}: {len(lost)} of {total} annotations are of no image of the file, the first is {lost[0]}"
    read.mistakes.append(f"{text}. Mend their image_id, or remove them.")
    for row in read.rows:
        if not row.objects and not row.answers and not row.problems:
            reason = "it has no annotation, and annotations of this file are of no image"
            problem(row, "lost", reason, "Mend their image_id, or remove them.")


def coco_classes(categories: Any, path: Path) -> dict[int, str]:
    """Number to name.

    Raises:
        BadRecord: a category has no number or no name, or two have one number.
    """
    found: dict[int, str] = {}
    for category in categories if isinstance(categories, list) else ():
        try:
            number, name = category_number(category["id"]), str(category["name"])
        except (KeyError, TypeError, BadPart) as error:
            reason = "it has no whole number as id, or no name"
            raise BadRecord(str(path), f"category {category}", reason, "Give both.") from error
        if found.setdefault(number, name) != name:
            reason = f"its id is that of {found[number]!r} too"
            raise BadRecord(str(path), f"category {name!r}", reason, "Give each category an id of its own.")
    return found


def category_number(value: Any) -> int:
    """The whole number of a category. Raises BadPart."""
    key = id_key(value) or ""
    if not key.removeprefix("-").isdecimal() or not is_whole(int(key)):
        raise BadPart(f"{value!r} is no number of a category")
    return int(key)
