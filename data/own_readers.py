"""Files of people's own data, one function for each layout: rows as they stand there."""

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openpali.data.images import MAX_PIXELS
from openpali.data.own_rows import PictureFile, Row, RowObject, problem
from openpali.data.records import BadRecord
from openpali.data.sources.annotations import BadPart, Pictures, read_json
from openpali.data.sources.public_rows import json_line, json_lines

PICTURE_ENDS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
# what people call the columns, for each name of ours
COLUMNS = {
    "image": ("image", "file_name", "img", "picture", "path", "image_path", "filename", "image_file"),
    "question": ("question", "query", "prompt"),
    "answers": {
        "vqa": ("answers", "answer", "response", "label"),
        "caption": ("captions", "caption", "text", "sentences", "description"),
        "classify": ("label", "labels", "class", "category", "answer"),
        "ocr": ("text", "transcription", "words", "ocr", "label"),
    },
    "objects": ("objects", "annotations"),
    "box": ("bbox", "box", "boxes", "bboxes"),
    "label": ("category", "label", "categories", "labels", "class", "category_id", "name"),
    "outline": ("segmentation", "segmentations", "outline", "mask"),
}
_LOOKED_AT = 50


@dataclass
class Read:
    """What a file says.

    Attributes:
        rows: its records.
        class_names: number of a class to its name, where classes have numbers.
        notes: what a person should know.
    """

    rows: list[Row]
    class_names: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class Folder:
    """Pictures beside a file: in the first of some folders that has them."""

    def __init__(self, file: Path, image_root: Path | None, names: Iterable[Any]) -> None:
        """Choose the folder in which most of the first names are found.

        Args:
            file: that names the pictures.
            image_root: the only folder to look in, where it is given.
            names: of pictures; a few are looked at.
        """
        here, up = file.parent, file.parent.parent
        stem = file.stem.removeprefix("instances_").removeprefix("captions_")
        beside = [here, here / "images", here / stem, here / "images" / stem]
        if here.name in ("annotations", "labels"):
            beside += [up, up / "images", up / stem, up / "images" / stem]
        roots = [image_root] if image_root else beside
        some = [name for name, _ in zip(names, range(_LOOKED_AT))]
        self.pictures = max((Pictures(root) for root in roots), key=lambda one: sum(_has(one, name) for name in some))

    def picture(self, name: Any) -> PictureFile | BadPart:
        """Where a picture is, or why it is nowhere."""
        try:
            path = self.pictures.root / self.pictures.check(name)
        except BadPart as part:
            return part if "image_root" in part.remedy else BadPart(part.reason, f"{part.remedy} See --image_root.")
        if not path.resolve().is_relative_to(self.pictures.root.resolve()):
            return BadPart(f"{name} is a link out of {self.pictures.root}", "Copy the picture, or give --image_root.")
        return PictureFile(path, str(name))


def read_coco(path: Path, image_root: Path | None, kind: str) -> Read:
    """COCO's JSON: `images`, `annotations` with `bbox` or `caption`, and `categories`."""
    content = read_json(path)
    images, annotations = (content.get(key) for key in ("images", "annotations"))
    if not (isinstance(images, list) and isinstance(annotations, list)):
        raise BadRecord(str(path), "all", "images and annotations are no lists", "Give a file of COCO's layout.")
    images = [image for image in images if isinstance(image, dict)]
    folder = Folder(path, image_root, (image.get("file_name") for image in images))
    rows, doubled = {}, []
    for image in images:
        row = Row(str(path), f"image {image.get('id')}", folder.picture(image.get("file_name")))
        row.declared = _declared(image)
        if image.get("id") in rows:
            doubled.append(image.get("id"))
        rows[image.get("id")] = row
    read = Read(list(rows.values()), coco_classes(content.get("categories"), path))
    lost = _add_annotations(annotations, rows, kind)
    if doubled:
        read.notes.append(f"{path}: {len(doubled)} images have the id of another one, the first is {doubled[0]}")
    if lost:
        read.notes.append(f"{path}: {len(lost)} annotations are of no image of the file, the first is {lost[0]}")
    return read


def _add_annotations(annotations: list[Any], rows: dict[Any, Row], kind: str) -> list[Any]:
    """Give every row its annotations; ids of those that belong to none."""
    lost = []
    for number, found in enumerate(annotations):
        found = found if isinstance(found, dict) else {}
        row, name = rows.get(found.get("image_id")), f"annotation {found.get('id', f'number {number}')}"
        if row is None:
            lost.append(name)
        elif kind == "caption":
            row.answers = [*(row.answers or ()), found.get("caption")]
        else:
            outline = found.get("segmentation") if kind == "segment" else None
            crowd = bool(found.get("iscrowd"))
            row.objects.append(RowObject(found.get("category_id"), found.get("bbox"), outline or None, name, crowd))
    return lost


def coco_classes(categories: Any, path: Path) -> dict[int, str]:
    """Number to name. Raises BadRecord when a category has no number or name."""
    found = {}
    for category in categories if isinstance(categories, list) else ():
        try:
            found[int(category["id"])] = str(category["name"])
        except (KeyError, TypeError, ValueError) as error:
            raise BadRecord(str(path), f"category {category}", "it has no id or no name", "Give both.") from error
    return found


def read_lines(path: Path, image_root: Path | None, kind: str, columns: dict[str, str]) -> Read:
    """JSON lines, CSV or TSV with a row for each record, or a JSON list of records."""
    try:
        table = list(_table(path))
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadRecord(str(path), "all", f"it cannot be read ({error})", "Save it as CSV in UTF-8.") from error
    if not table:
        return Read([])
    names = column_names((row for _, row in table if isinstance(row, dict)), kind, columns, path)
    folder = Folder(path, image_root, (row.get(names["image"]) for _, row in table if isinstance(row, dict)))
    rows = []
    for record, row in table:
        if isinstance(row, dict):
            rows.append(as_row(path, record, folder.picture(row.get(names["image"])), row, names, kind))
        else:
            part = row if isinstance(row, BadPart) else BadPart("it is not a JSON object", "Mend the line.")
            rows.append(Row(str(path), record, part))
    return Read(rows)


def _table(path: Path) -> Iterator[tuple[str, Any]]:
    """Number of the line and its values, or a BadPart."""
    if path.suffix in (".csv", ".tsv"):
        with path.open(encoding="utf-8-sig", newline="") as file:
            for row in (reader := csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")):
                yield str(reader.line_num), row
        return
    if path.suffix == ".json":
        content = read_json(path)
        for number, row in enumerate(content if isinstance(content, list) else ()):
            yield f"entry {number}", row
        return
    for number, line in json_lines(path):
        try:
            yield str(number), json_line(line)
        except BadPart as part:
            yield str(number), part


def column_names(rows: Iterable[dict[str, Any]], kind: str, columns: dict[str, str], path: Path) -> dict[str, str]:
    """The columns of a table by our names for them: those that are given, else by what people call them.

    Raises:
        BadRecord: one that the kind needs is not there; it names what there is.
    """
    there = list(dict.fromkeys(key for row, _ in zip(rows, range(_LOOKED_AT)) for key in row if key is not None))
    needed = {"detect": ["objects"], "segment": ["objects"], "vqa": ["question", "answers"]}.get(kind, ["answers"])
    if unknown := sorted(set(columns) - {"image", *COLUMNS}):
        raise BadRecord(str(path), "columns", f"columns has no entry {unknown[0]!r}", f"It may have {list(COLUMNS)}.")
    found = {}
    for name in ("image", *needed):
        usual: Any = COLUMNS[name]
        usual = usual[kind] if isinstance(usual, dict) else usual
        column = columns.get(name) or next((one for one in usual if one in there), None)
        if column not in there or column is None:
            raise BadRecord(
                str(path),
                "columns",
                f"there is no column {columns.get(name) or ' or '.join(usual[:3])}, only {', '.join(map(str, there))}",
                f"""Say which one it is: --columns '{{"{name}": "NAME"}}'.""",
            )
        found[name] = column
    return found | {key: value for key, value in columns.items() if key in ("box", "label", "outline")}


def as_row(path: Path | str, record: str, picture: Any, row: dict[str, Any], names: dict[str, str], kind: str) -> Row:
    """A line of a table."""
    found = Row(str(path), record, picture, declared=_declared(row))
    if "question" in names:
        found.question = row.get(names["question"])
    if "answers" in names:
        found.answers = _decoded(row.get(names["answers"]))
    if "objects" in names:
        value = _decoded(row.get(names["objects"]))
        if value and not isinstance(value, dict | list | tuple):
            problem(found, "box", f"its {names['objects']} is {value!r} and no list of objects", "Give a list, or [].")
        else:
            found.objects = list(_objects(value, names, kind == "segment", record))
    return found


def _objects(value: Any, names: dict[str, str], outlined: bool, record: str) -> Iterator[RowObject]:
    """From a list of objects, or from an object of lists as `datasets` has it; `record` is their line."""
    if isinstance(value, dict):
        lists = {key: items for key, items in value.items() if isinstance(items, list)}
        length = max(map(len, lists.values()), default=0)
        value = [{key: items[i] if i < len(items) else None for key, items in lists.items()} for i in range(length)]
    for number, item in enumerate(value or ()):
        item = item if isinstance(item, dict) else {"box": item}
        keys = {name: _key(item, names.get(name), name) for name in ("box", "label", "outline")}
        outline = item.get(keys["outline"]) if outlined else None
        yield RowObject(item.get(keys["label"]), item.get(keys["box"]), outline or None, f"{record}, object {number}")


def _key(item: dict[str, Any], given: str | None, name: str) -> str:
    return given or next((one for one in COLUMNS[name] if one in item), name)


def _decoded(value: Any) -> Any:
    """A list or an object that a CSV file has as JSON."""
    if isinstance(value, str) and value[:1] in "[{":
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def read_classes(path: Path) -> Read:
    """A folder with a folder of pictures for each class."""
    rows, empty = [], []
    for folder in sorted(one for one in path.iterdir() if one.is_dir() and not one.name.startswith(".")):
        files = sorted(one for one in folder.rglob("*") if one.suffix.lower() in PICTURE_ENDS)
        for file in files:
            name = file.relative_to(path).as_posix()
            inside = file.resolve().is_relative_to(path.resolve())
            outside = BadPart(f"{name} is a link out of {path}", "Copy the picture.")
            picture = PictureFile(file, name) if inside else outside
            rows.append(Row(str(path), name, picture, answers=folder.name.replace("_", " ")))
        if not files:
            empty.append(folder.name)
    notes = [f"{path}: the folders {', '.join(empty)} hold no picture"] if empty else []
    return Read(rows, notes=notes)


def _declared(row: dict[str, Any]) -> tuple[int, int] | None:
    """Width and height where a record says both."""
    size = row.get("width"), row.get("height")
    try:
        width, height = (int(side) for side in size)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        return None
    return (width, height) if 0 < width * height <= MAX_PIXELS else None


def _has(pictures: Pictures, name: Any) -> bool:
    try:
        return bool(pictures.check(name))
    except BadPart:
        return False
