"""Texts without images, for the text side of stage 0: records `{"id": ..., "text": ...}`.

They come from files, from a dataset of `datasets`, or from the built-in scenes.
"""

import glob
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from openpali.data.records import BadRecord
from openpali.data.sources import Source, build

TEXTS = {
    "builtin": "openpali.data.text.builtin:BuiltInTexts",
    "datasets": "openpali.data.text.sources:DatasetTexts",
    "files": "openpali.data.text.sources:TextFiles",
    "jsonl": "openpali.data.text.sources:JsonlTexts",
}


def load_texts(spec: dict[str, Any]) -> Source:
    """The texts that a dict describes: `{"name": "files", "path": "book.txt"}`, options beside the name.

    Raises:
        ValueError: an unknown name or option; the message gives the nearest known one.
    """
    return build(spec, TEXTS, "kind of texts")


def matching(path: str | Sequence[str]) -> list[Path]:
    """Files of a path, of a pattern such as `books/*.txt`, or of a list of them, in order.

    Raises:
        BadRecord: no file matches a path or pattern.
    """
    found: list[Path] = []
    for pattern in [path] if isinstance(path, str | Path) else path:
        files = (
            [Path(pattern)] if Path(pattern).is_file() else [Path(name) for name in sorted(glob.glob(str(pattern)))]
        )
        files = [file for file in files if file.is_file()]
        if not files:
            raise BadRecord(str(pattern), "file", "no such file", "Give a file or a pattern such as books/*.txt.")
        found += files
    return found


class TextFiles:
    """Plain text in UTF-8, in memory: every line, or every paragraph between empty lines, is a text."""

    def __init__(self, path: str | Sequence[str], by: Literal["line", "paragraph"] = "line") -> None:
        """Read files.

        Args:
            path: a file, a pattern, or a list of them.
            by: unit of a text, `line` or `paragraph`.

        Raises:
            BadRecord: no such file, not UTF-8, or empty.
        """
        if by not in ("line", "paragraph"):
            raise ValueError(f"by is line or paragraph, not {by!r}")
        self.name = "files"
        self.rows = [row for file in matching(path) for row in self._read(file, by)]
        if not self.rows:
            raise BadRecord(str(path), "all", "there is no text in it")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        place, text = self.rows[index]
        return {"id": place, "text": text}

    def _read(self, path: Path, by: str) -> Iterator[tuple[str, str]]:
        """Place and text of each non-empty unit."""
        try:
            lines = path.read_text("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise BadRecord(str(path), f"byte {error.start}", "it is not UTF-8", "Convert it first.") from error
        held: list[str] = []
        for number, line in enumerate([*lines, ""], 1):
            if line.strip():
                held.append(line.strip())
            if held and (by == "line" or not line.strip()):
                yield f"{path.name}:{number if by == 'line' else number - len(held)}", "\n".join(held)
                held = []


class JsonlTexts:
    """JSON lines with a text each, as in `{"text": "..."}`, in memory.

    Attributes:
        bad: the problem of each unusable line.
    """

    notes = ()

    def __init__(self, path: str | Sequence[str], key: str = "text") -> None:
        """Read files.

        Args:
            path: a file, a pattern, or a list of them.
            key: of the text.

        Raises:
            BadRecord: no such file, no good line, or more than a tenth of 100 or more are bad.
        """
        self.name, self.key = "jsonl", key
        self.bad: list[BadRecord] = []
        self.rows: list[tuple[str, str]] = []
        for file in matching(path):
            self._read(file)
        total = len(self.rows) + len(self.bad)
        if not self.rows or (total >= 100 and len(self.bad) > total / 10):
            last = f"; the first one: {self.bad[0]}" if self.bad else ""
            raise BadRecord(str(path), "all", f"{len(self.bad)} of {total} lines cannot be used{last}")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        place, text = self.rows[index]
        return {"id": place, "text": text}

    def _read(self, path: Path) -> None:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    record = json.loads(line.decode("utf-8-sig"))
                except ValueError as error:
                    self.bad.append(BadRecord(str(path), number, f"it is not JSON: {error}"))
                    continue
                text = record.get(self.key) if isinstance(record, dict) else None
                if isinstance(text, str) and text.strip():
                    self.rows.append((f"{path.name}:{number}", text))
                else:
                    self.bad.append(BadRecord(str(path), number, f"it has no text under {self.key!r}", "Give key."))


class DatasetTexts:
    """A column of a dataset of `datasets`, from a folder or the Hub; read from disk on access."""

    def __init__(self, dataset: str, column: str = "text", split: str = "train", config: str | None = None) -> None:
        """Open the dataset.

        Args:
            dataset: folder of `save_to_disk`, folder of files that `load_dataset` knows, or a name on the Hub.
            column: of the text.
            split: of the dataset.
            config: of a dataset that has several.

        Raises:
            ValueError: it cannot be read, or has no such split or column.
        """
        import datasets
        from datasets.exceptions import DatasetsError

        self.name = f"{dataset}/{split}"
        saved = any(Path(dataset, name).is_file() for name in ("state.json", "dataset_dict.json"))
        try:
            found: Any = (
                datasets.load_from_disk(dataset) if saved else datasets.load_dataset(dataset, config, split=split)
            )
        except (OSError, ValueError, DatasetsError) as error:
            raise ValueError(f"{dataset}: {' '.join(str(error).split())}") from error
        if isinstance(found, datasets.DatasetDict):
            if split not in found:
                raise ValueError(f"{dataset} has no split {split!r}; it has {', '.join(map(str, found))}")
            found = found[split]
        if column not in found.column_names:
            raise ValueError(f"{dataset} has no column {column!r}; it has {', '.join(found.column_names)}")
        self.rows, self.column = found.select_columns([column]), column

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        text = self.rows[index][self.column]
        if not isinstance(text, str):
            raise BadRecord(self.name, index, f"its {self.column!r} is {type(text).__name__} and not text")
        return {"id": f"{self.name}:{index}", "text": text}
