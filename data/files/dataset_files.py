"""Files of public datasets: rows packed in memory, lists and lines of JSON, and copies on the Hub."""

import json
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openpali.data.files.annotations import BadValue
from openpali.data.records import BadRecord


class MissingData(ValueError):
    """Missing files of a dataset. The message has download instructions."""


class PackedRows:
    """Many JSON values in one byte buffer, which loader workers share without copying."""

    def __init__(self) -> None:
        """Start with none."""
        self._bytes, self._ends = bytearray(), array("q", [0])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> Any:
        return json.loads(bytes(self._bytes[self._ends[index] : self._ends[index + 1]]))

    def append(self, row: Any) -> None:
        """Store a value."""
        self._bytes += json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
        self._ends.append(len(self._bytes))


def json_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Number from 1 and content of every non-blank line, for `json_line`."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line


def json_line(line: bytes) -> Any:
    """Parse a line of JSON. Raises BadValue."""
    try:
        return json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise BadValue(f"it is not JSON in UTF-8 ({error})", "Fix the line.") from error


def listed(content: Any, key: str | None, path: Path) -> list[Any]:
    """The list in the content of a JSON file, under a key if it has one.

    Raises:
        BadRecord: there is no such list.
    """
    found = content.get(key) if key is not None and isinstance(content, dict) else content
    if not isinstance(found, list):
        reason = "it is not a JSON list" if key is None else f'it has no list "{key}"'
        raise BadRecord(str(path), "all", reason, "Is it the original file of the dataset?")
    return found


def hub_copy(name: str, config: str | None, split: str, images: list[str], files: list[str] | None = None) -> Any:
    """A split of a dataset on the Hub or in a folder that `datasets` reads, with encoded images.

    With `files`, `name` is their format, such as `parquet`.

    Raises:
        MissingData: it cannot be read, or has no such split or column.
    """
    import datasets  # takes a second, and most runs read a folder

    try:
        data: Any = datasets.load_dataset(name, config, split=split, data_files=files)
    except (OSError, ValueError) as error:
        raise MissingData(
            f"hub: the split {split!r} of {name} cannot be read ({' '.join(str(error).split())}). Check the name,"
            " hub_config and hub_splits, and whether its terms have to be accepted on the Hub first."
        ) from error
    if missing := [column for column in images if column not in data.column_names]:
        raise MissingData(
            f"hub: {name} has no column {missing[0]!r} for images; there are {', '.join(data.column_names)}."
            " Give columns: {image: the right one}."
        )
    for column in images:
        data = data.cast_column(column, datasets.Image(decode=False))
    return data


def with_images(data: Any, images: list[str]) -> list[bool]:
    """Whether each row of a `hub_copy` has all of its images; nothing is decoded or copied."""
    columns = [data.data.column(column).is_valid().to_pylist() for column in images]
    return [all(row) for row in zip(*columns, strict=True)]
