"""Custom data as a dataset of `datasets`: on the Hub, or in a folder of `save_to_disk`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openpali.data.custom.readers import RawData, as_row, column_names
from openpali.data.custom.rows import ImageOnDisk, Row, UnreadableRecord
from openpali.data.custom.tables import records_of
from openpali.data.files.annotations import BadValue
from openpali.data.files.conversations import KEYS
from openpali.data.records import BadRecord

HUB = "hf:"
_SAVED = ("dataset_dict.json", "dataset_info.json", "state.json")


@dataclass(frozen=True, slots=True)
class ImageCell:
    """An encoded image in a column of a dataset.

    Attributes:
        table: the dataset with that column alone.
        index: of the row.
        column: its name.
        name: for messages.
    """

    table: Any
    index: int
    column: str
    name: str

    def content(self) -> bytes:
        """Bytes of the cell, or of the file that it names. Raises OSError."""
        cell = self.table[self.index][self.column]
        if isinstance(cell, list):
            if len(cell) > 1:
                raise OSError(f"its column {self.column!r} has {len(cell)} images, and a record with --kind has one")
            cell = cell[0] if cell else None
        if isinstance(cell, dict) and cell.get("bytes"):
            return cell["bytes"]
        path = cell.get("path") if isinstance(cell, dict) else None
        if not path:
            raise OSError("its image is missing")
        return ImageOnDisk(self._inside(Path(path)), path).content()

    def _inside(self, path: Path) -> Path:
        """The path itself, if it is inside the dataset's folder or the Hub cache. Raises OSError."""
        from datasets import config

        kept = [Path(file["filename"]).parent for file in self.table.cache_files]
        kept += [config.HF_CACHE_HOME, config.HF_DATASETS_CACHE]
        if not any(path.resolve().is_relative_to(Path(root).resolve()) for root in kept):
            raise OSError(f"its image {path} is outside the dataset: save the dataset with its images")
        return path


def is_saved(path: Path) -> bool:
    """Whether a folder was written by `save_to_disk`."""
    return any((path / name).is_file() for name in _SAVED)


def open_dataset(data: str) -> dict[str, Any]:
    """The splits of `hf:NAME`, `hf:NAME:CONFIGURATION` or a folder of `save_to_disk`, by name.

    Raises:
        BadRecord: it cannot be read.
    """
    import datasets  # takes a second, and most custom data are files

    try:
        if not data.startswith(HUB):
            found: Any = datasets.load_from_disk(data)
        else:
            name, _, config = data.removeprefix(HUB).partition(":")
            found = datasets.load_dataset(name, config or None)
    except (OSError, ValueError, RuntimeError) as error:
        reason = f"it cannot be read ({' '.join(str(error).split())[:300]})"
        remedy = "Check the name, hf:NAME:CONFIGURATION where it has several, and its terms on the Hub."
        raise BadRecord(data, "all", reason, remedy) from error
    return dict(found) if isinstance(found, dict) else {"": found}


def read_dataset(table: Any, name: str, kind: str, columns: dict[str, str]) -> RawData:
    """Rows of one split.

    Raises:
        BadRecord: a column is missing, or the image column holds no images.
    """
    import datasets

    talk = not {"question", "answers"} & set(columns) and next((key for key in KEYS if key in table.column_names), "")
    there = [*table.column_names, *(("question", "answer") if talk else ())]
    names = column_names([dict.fromkeys(there)], kind, columns, Path(name))
    column = names["image"]
    encoded: Any = datasets.Image(decode=False)
    if getattr(table.features[column], "feature", None) == datasets.Image():
        encoded = datasets.List(encoded)
    elif not isinstance(table.features[column], datasets.Image):
        reason = f"its column {column!r} holds {table.features[column]} and not images"
        raise BadRecord(
            name, "columns", reason, "Cast it: data.cast_column(NAME, datasets.Image()), and save it again."
        )
    images = table.select_columns([column]).cast_column(column, encoded)
    wanted = {*names.values(), "width", "height", talk}
    words = table.select_columns([one for one in table.column_names if one in wanted and one != column])
    of = names.get("objects") or names.get("answers", "")
    classes = class_names(table.features.get(of))
    if classes and "answers" in names and not isinstance(table.features[names["answers"]], datasets.ClassLabel):
        reason = f"its column {names['answers']!r} holds several classes per image, and --kind {kind} takes one"
        raise BadRecord(name, "columns", reason, "Keep one, or write their names into a column of text.")
    rows = []
    for index, values in enumerate(words):
        image = ImageCell(images, index, column, f"the image of row {index}")
        if classes and "answers" in names:
            values = values | {names["answers"]: classes.get(values[names["answers"]], "")}
        for record, one in records_of(f"row {index}", values) if talk else [(f"row {index}", values)]:
            if isinstance(one, BadValue):
                rows.append(Row(name, record, UnreadableRecord(one.reason, one.remedy)))
            else:
                rows.append(as_row(name, record, image, one, names, kind))
    return RawData(rows, classes if "objects" in names else {})


def class_names(feature: Any) -> dict[int, str]:
    """Numbers and names of the first ClassLabel in a feature, at any depth."""
    import datasets

    if isinstance(feature, datasets.ClassLabel):
        return dict(enumerate(feature.names))
    inner = getattr(feature, "feature", None)
    parts = feature.values() if isinstance(feature, dict) else [inner] if inner is not None else []
    return next((found for part in parts if (found := class_names(part))), {})
