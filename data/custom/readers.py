"""Read files of custom data into unchecked rows: tables, lists of records, and folders of classes."""

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openpali.data.custom.rows import ImageOnDisk, Row, RowObject, UnreadableRecord, add_problem
from openpali.data.custom.tables import decoded, read_table
from openpali.data.files.annotations import BadValue
from openpali.data.files.conversations import without_marks
from openpali.data.files.image_folder import ImageFolder
from openpali.data.files.run_folders import is_hidden, runs_below
from openpali.data.records import MAX_PIXELS, BadRecord

IMAGE_ENDS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
# usual names of the columns, by our own names
COLUMNS = {
    "image": ("image", "file_name", "img", "picture", "path", "image_path", "filename", "image_file", "images"),
    "question": ("question", "query", "prompt"),
    "answers": {
        "vqa": ("answers", "answer", "response", "label"),
        "caption": ("captions", "caption", "text", "sentences", "description", "answer"),
        "classify": ("label", "labels", "class", "category", "answer"),
        "ocr": ("text", "transcription", "words", "ocr", "label", "answer"),
    },
    "objects": ("objects", "annotations"),
    "box": ("bbox", "box", "boxes", "bboxes"),
    "label": ("category", "label", "categories", "labels", "class", "category_id", "name"),
    "outline": ("segmentation", "segmentations", "outline", "mask"),
}
_LOOKED_AT = 50


@dataclass
class RawData:
    """The content of one file or dataset, unchecked.

    Attributes:
        rows: its records.
        class_names: number of a class to its name, where classes have numbers.
        notes: messages for the user.
        mistakes: errors of the file as a whole.
        layout: its name where it fixes the format of boxes, which are then read as COCO's.
    """

    rows: list[Row]
    class_names: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)
    layout: str = ""


class Folder:
    """The folder of the images that a file names."""

    def __init__(self, file: Path, image_root: Path | None, names: Iterable[Any]) -> None:
        """Choose the folder to which most of the first names are relative.

        Args:
            file: the file that names the images.
            image_root: the folder that names and links may not leave; by default that of the file, or its parent
                where it is called annotations or labels.
            names: of images; only the first ones are read.
        """
        here, up = file.parent, file.parent.parent
        stem = file.stem.removeprefix("instances_").removeprefix("captions_")
        beside = [here, here / "images", here / stem, here / "images" / stem]
        above = here.name in ("annotations", "labels")
        if above:
            beside += [up, up / "images", up / stem, up / "images" / stem]
        if image_root:
            found = [ImageFolder(image_root, image_root, place) for place in beside]
        else:
            found = [ImageFolder(up if above else here, place) for place in beside]
        some = [name for name, _ in zip(names, range(_LOOKED_AT))]
        self.images = max(found, key=lambda one: sum(_has(one, name) for name in some))

    def image(self, name: Any) -> ImageOnDisk | BadValue:
        """The image of a name, or the reason why there is none."""
        try:
            name = one_image(name)
        except BadValue as bad:
            return bad
        try:
            found = self.images.check(name)
            self.images.inside(found)
        except BadValue as bad:
            return bad if "image_root" in bad.remedy else BadValue(bad.reason, f"{bad.remedy} See --image_root.")
        return ImageOnDisk(self.images.root / found, name)


def one_image(name: Any) -> Any:
    """The name in a list of one, or in an object of `datasets`. Raises BadValue for several."""
    if isinstance(name, list) and len(name) > 1:
        remedy = "Give one, or a JSONL file of image, prefix and suffix without --kind."
        raise BadValue(f"it has {len(name)} images, and a record with --kind has one", remedy)
    name = name[0] if isinstance(name, list) and name else name
    return name["path"] if isinstance(name, dict) and "path" in name else name


def read_lines(
    path: Path,
    image_root: Path | None,
    kind: str,
    columns: dict[str, str],
    table: list[tuple[str, Any]] | None = None,
) -> RawData:
    """Rows of JSON lines, CSV, TSV or a JSON list, where a row is a record or a conversation.

    Args:
        path: of the file.
        image_root: folder of the images.
        kind: one of `KINDS`.
        columns: our names of columns to those of the file.
        table: its content, where it has been read already.
    """
    if table is None:
        table = read_table(path, talk=not {"question", "answers"} & set(columns))
    bad = [(record, row) for record, row in table if isinstance(row, BadValue)]
    if len(bad) == len(table):
        if bad:
            raise BadRecord(str(path), bad[0][0], bad[0][1].reason, bad[0][1].remedy)
        return RawData([])
    names = column_names((row for _, row in table if isinstance(row, dict)), kind, columns, path)
    folder = Folder(path, image_root, (row.get(names["image"]) for _, row in table if isinstance(row, dict)))
    rows = []
    for record, row in table:
        if isinstance(row, dict):
            rows.append(as_row(path, record, folder.image(row.get(names["image"])), row, names, kind))
        else:
            error = row if isinstance(row, BadValue) else BadValue("it is not a JSON object", "Fix the line.")
            rows.append(Row(str(path), record, UnreadableRecord(error.reason, error.remedy)))
    return RawData(rows)


def column_names(rows: Iterable[dict[str, Any]], kind: str, columns: dict[str, str], path: Path) -> dict[str, str]:
    """Our names of the columns to those of a table: as given, else by the usual names.

    Raises:
        BadRecord: a column that the kind needs is missing; the message lists those of the table.
    """
    there = list(dict.fromkeys(key for row, _ in zip(rows, range(_LOOKED_AT)) for key in row if key is not None))
    needed = {"detect": ["objects"], "segment": ["objects"], "vqa": ["question", "answers"]}.get(kind, ["answers"])
    if unknown := sorted(set(columns) - {"image", *COLUMNS}):
        raise BadRecord(str(path), "columns", f"columns has no entry {unknown[0]!r}", f"It may have {list(COLUMNS)}.")
    found = {}
    for name in ("image", *needed):
        usual: Any = COLUMNS[name]
        usual = usual[kind] if isinstance(usual, dict) else usual
        folded = {str(one).strip().lower(): one for one in reversed(there)} | {one: one for one in there}
        column = columns.get(name) or next((folded[one] for one in usual if one in folded), None)
        if column not in there or column is None:
            raise BadRecord(
                str(path),
                "columns",
                f"there is no column {columns.get(name) or ' or '.join(usual[:3])}, only {', '.join(map(str, there))}",
                f"""Say which one it is: --columns '{{"{name}": "NAME"}}'.""",
            )
        found[name] = column
    return found | {key: value for key, value in columns.items() if key in ("box", "label", "outline")}


def as_row(path: Path | str, record: str, image: Any, row: dict[str, Any], names: dict[str, str], kind: str) -> Row:
    """The row of a record of a table."""
    found = Row(str(path), record, image, declared=declared_size(row))
    if "question" in names:
        question = row.get(names["question"])
        found.question = without_marks(question) if isinstance(question, str) else question
    if "answers" in names:
        found.answers = decoded(row.get(names["answers"]))
    if "objects" in names:
        value = decoded(row.get(names["objects"]))
        if value and not isinstance(value, dict | list | tuple):
            reason = f"its {names['objects']} is {value!r} and not a list of objects"
            add_problem(found, "box", reason, "Give a list, or [].")
        else:
            found.objects = list(_objects(value, names, kind == "segment", record))
    return found


def _objects(value: Any, names: dict[str, str], segmented: bool, record: str) -> Iterator[RowObject]:
    """Objects of a list of dicts, or of a dict of lists as in `datasets`; `record` names their row."""
    if isinstance(value, dict):
        lists = {key: items for key, items in value.items() if isinstance(items, list)}
        length = max(map(len, lists.values()), default=0)
        value = [{key: items[i] if i < len(items) else None for key, items in lists.items()} for i in range(length)]
    for number, item in enumerate(value or ()):
        item = item if isinstance(item, dict) else {"box": item}
        keys = {name: _key(item, names.get(name), name) for name in ("box", "label", "outline")}
        mask = item.get(keys["outline"]) if segmented else None
        yield RowObject(item.get(keys["label"]), item.get(keys["box"]), mask or None, f"{record}, object {number}")


def _key(item: dict[str, Any], given: str | None, name: str) -> str:
    return given or next((one for one in COLUMNS[name] if one in item), name)


def read_classes(path: Path, image_root: Path | None) -> RawData:
    """Rows of a folder that has a folder of images for each class; outputs of runs and hidden files are skipped."""
    rows, empty, runs = [], [], runs_below(path)
    inside = path.resolve()
    if image_root and inside.is_relative_to(image_root.resolve()):
        inside = image_root.resolve()
    for folder in sorted(one for one in path.iterdir() if one.is_dir() and not is_hidden(one.name)):
        if folder in runs:
            continue
        files = sorted(one for one in folder.rglob("*") if one.suffix.lower() in IMAGE_ENDS)
        files = [one for one in files if not any(map(is_hidden, one.relative_to(path).parts))]
        files = [one for one in files if not runs & {*one.parents}]
        for file in files:
            name = file.relative_to(path).as_posix()
            remedy = "Copy what it points to, or give an --image_root that holds both."
            outside = BadValue(f"{name} is a link out of {inside}", remedy)
            image = ImageOnDisk(file, name) if file.resolve().is_relative_to(inside) else outside
            label = unicodedata.normalize("NFC", folder.name).replace("_", " ")
            rows.append(Row(str(path), name, image, answers=label))
        if not files:
            empty.append(folder.name)
    notes = [f"{path}: the folders {', '.join(empty)} hold no image"] if empty else []
    if runs:
        left = ", ".join(sorted(one.relative_to(path).as_posix() for one in runs))
        notes.append(f"{path}: not read, since runs wrote them: {left}")
    return RawData(rows, notes=notes)


def declared_size(row: dict[str, Any]) -> tuple[int, int] | None:
    """The width and height that a record declares; None without both."""
    size = row.get("width"), row.get("height")
    try:
        width, height = (int(side) for side in size)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        return None
    return (width, height) if 0 < width * height <= MAX_PIXELS else None


def _has(images: ImageFolder, name: Any) -> bool:
    try:
        return bool(images.check(name))
    except BadValue:
        return False
