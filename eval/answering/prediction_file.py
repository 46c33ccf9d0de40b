"""predictions.jsonl: written line by line, and read by a run that resumes.

Of several processes the first writes this file and each other one a part beside it, `predictions.part-3.jsonl`. The
parts are merged when the run ends or resumes, with any number of processes.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from openpali.eval.answering.decoding import Answer, Token
from openpali.eval.answering.processes import ALONE, Processes


class PredictionFile:
    """A JSON-lines file of predictions, with a file of its settings beside it.

    Attributes:
        path: the file.
        done: answers of an earlier run with the same settings, by example id.
    """

    def __init__(
        self, path: str | Path, settings: Mapping[str, Any], overwrite: bool = False, processes: Processes = ALONE
    ) -> None:
        """Open the file and resume from its rows. Every process must call this.

        Args:
            path: of the JSON lines.
            settings: everything that changes predictions, as JSON values.
            overwrite: delete the rows of an earlier run.
            processes: that write.

        Raises:
            ValueError: the file was made with other settings.
        """
        self.path = Path(path)
        # read before any process changes it, so that all of them refuse or none
        settings_path = self.path.with_suffix(".settings.json")
        if not overwrite and (self.path.exists() or self.parts()):
            before = json.loads(settings_path.read_text()) if settings_path.exists() else {}
            check_settings(self.path, before, settings)
        processes.wait()
        if processes.main:
            self._begin(settings, overwrite)
        processes.wait()
        self.done = {row["id"]: row_answer(row) for row in complete_rows(self.path)}
        self.own = self.path if processes.main else self.path.with_suffix(f".part-{processes.index}.jsonl")

    def _begin(self, settings: Mapping[str, Any], overwrite: bool) -> None:
        """Merge the rows of an earlier run, without the incomplete lines of a killed one, or delete them."""
        if overwrite:
            for path in (self.path, *self.parts()):
                path.unlink(missing_ok=True)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if rows := [row for path in (self.path, *self.parts()) for row in complete_rows(path)]:
            self.replace({row["id"]: row for row in rows}.values())
        self.path.with_suffix(".settings.json").write_text(json.dumps(settings, indent=1) + "\n")

    def parts(self) -> list[Path]:
        """Files of processes other than the first."""
        return sorted(self.path.parent.glob(f"{self.path.stem}.part-*.jsonl"))

    def write(self, row: dict[str, Any]) -> None:
        """Append one prediction."""
        with self.own.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def replace(self, rows: Iterable[dict[str, Any]]) -> None:
        """Rewrite all rows, such as with scores; the old files stay until the new one is complete."""
        new = self.path.with_suffix(".new")
        new.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        os.replace(new, self.path)
        for part in self.parts():
            part.unlink()


def complete_rows(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a file; none where there is no file."""
    # not splitlines(): answers may hold other line separators
    lines = path.read_text("utf-8").split("\n") if path.exists() else [""]
    return [json.loads(line) for line in lines[:-1]]


def row_answer(row: Mapping[str, Any]) -> Answer:
    """The answer of a row."""
    tokens = row.get("tokens")
    return Answer(row["text"], tokens and [Token(*token) for token in tokens], row.get("found"))


def check_settings(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise ValueError where one file would mix predictions of two settings."""
    keys = [key for key in dict.fromkeys([*before, *now]) if before.get(key) != now.get(key)]
    if keys:
        changes = "; ".join(f"{key}: {before.get(key)} before, {now.get(key)} now" for key in keys)
        raise ValueError(
            f"{path} was made with other settings ({changes}). Give another --output, or --overwrite to start anew."
        )


def file_signature(name: str) -> Any:
    """Names, sizes and modification times of a file or of a checkpoint's files; None for a name that is no path."""
    path = Path(name)
    files = [path] if path.is_file() else sorted(path.glob("*")) if path.is_dir() else []
    kept = [file for file in files if file == path or file.suffix in (".safetensors", ".bin", ".json", ".jinja")]
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in kept] or None
