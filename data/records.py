"""Records that cannot be used: the error that names one, and the file that lists them.

Sources and tasks raise `BadRecord`; `TaskDataset` and the streams list the record in a `SkipLog`, take the next one,
and stop where too many are bad.
"""

import json
import os
from pathlib import Path

from openpali.modeling.user_errors import UserError

# of an image or a mask; larger ones are rejected before decoding
MAX_PIXELS = 89_478_485


class BadRecord(UserError):
    """A record that cannot be used.

    Attributes:
        file: the file or source of the record.
        record: its line, key or number within the file.
        reason: the problem.
        remedy: what to do about it.
    """

    def __init__(self, file: str, record: str | int, reason: str, remedy: str = "") -> None:
        super().__init__(file, record, reason, remedy)
        self.file, self.record, self.reason, self.remedy = str(file), str(record), reason, remedy

    def __str__(self) -> str:
        reason = self.reason.rstrip(". ")
        return f"{self.file}:{self.record}: {reason}." + (f" {self.remedy}" if self.remedy else "")

    def to_json(self) -> str:
        """One JSON object with `file`, `record`, `reason` and `remedy`, on one line."""
        row = {"file": self.file, "record": self.record, "reason": self.reason, "remedy": self.remedy}
        return json.dumps(row, ensure_ascii=False)


def too_many_bad(bad: BadRecord, counted: str, max_bad_share: float) -> BadRecord:
    """The error that ends reading, at the record that exceeds the limit.

    Args:
        bad: that record.
        counted: number of bad records and of all, as text.
        max_bad_share: the limit.
    """
    reason = f"{bad.reason.rstrip('. ')}; with it {counted} cannot be used, more than max_bad_share={max_bad_share:g}"
    remedy = " ".join(filter(None, (bad.remedy, "Fix the data, or raise max_bad_share.")))
    return BadRecord(bad.file, bad.record, reason, remedy)


class SkipLog:
    """The list of skipped records, shared by every process that reads data.

    Each line is one append, so that DataLoader workers and ranks can share the file. Without a file the list is in
    the memory of this process.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        """Keep the list in `path` (`skipped_records.jsonl` when a folder is given), or in memory when None."""
        self.path = None if path is None else Path(path)
        if self.path is not None and self.path.is_dir():
            self.path = self.path / "skipped_records.jsonl"
        self._memory: list[str] = []
        self._seen: set[tuple[str, str, str]] = set()
        # lines of earlier runs do not count: their records may have been fixed
        self._counted = self.path.stat().st_size if self.path is not None and self.path.exists() else 0
        self._counts: dict[str, set[tuple[str, str]]] = {}

    def add(self, bad: BadRecord, data: str = "") -> None:
        """Append one record, once per process.

        Args:
            bad: the record.
            data: name of the dataset that it was read for, as in `count`.
        """
        key = (bad.file, bad.record, data)
        if key in self._seen:
            return
        self._seen.add(key)
        line = bad.to_json()
        if data:
            line = json.dumps(json.loads(line) | {"data": data}, ensure_ascii=False)
        if self.path is None:
            self._memory.append(line)
            self._counts.setdefault(data, set()).add((bad.file, bad.record))
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(handle, (line + "\n").encode())
        finally:
            os.close(handle)

    def count(self, data: str) -> int:
        """Number of different bad records of a dataset since this list was opened, in all processes."""
        if self.path is not None and self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self._counted)
                # an incomplete last line is still being written
                new = file.read()
            new = new[: new.rfind(b"\n") + 1]
            self._counted += len(new)
            for row in map(json.loads, new.splitlines()):
                self._counts.setdefault(row.get("data", ""), set()).add((row["file"], row["record"]))
        return len(self._counts.get(data, ()))

    def read(self) -> list[dict[str, str]]:
        """Every skipped record once, in order of appearance."""
        lines = self._memory
        if self.path is not None:
            lines = self.path.read_text("utf-8").splitlines() if self.path.exists() else []
        rows: dict[tuple[str, str], dict[str, str]] = {}
        for row in map(json.loads, lines):
            rows.setdefault((row["file"], row["record"]), row)
        return list(rows.values())
