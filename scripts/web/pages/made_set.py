"""What `openpali web` has left in its folder: settings, counts, tables and index, for pages about the made set."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pyarrow import parquet

from openpali.modeling.user_errors import UserError
from openpali.scripts.web.running.tables import read_table


class NotMade(UserError, ValueError):
    """A folder that has no finished run of `openpali web`."""


@dataclass(frozen=True)
class MadeSet:
    """The folder of a finished run.

    Attributes:
        folder: its `--output`.
    """

    folder: Path

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Names of the shards, and the options of the steps. Raises NotMade."""
        return self._json("settings.json")

    @cached_property
    def counts(self) -> dict[str, Any]:
        """What each step has dropped, and why. Raises NotMade."""
        return self._json("counts.json")

    @property
    def shards(self) -> list[str]:
        """Names of the raw shards."""
        return self.settings["shards"]

    @property
    def steps(self) -> list[str]:
        """Folders of the steps' tables, as in `03-image_rules`."""
        return [step["step"] for step in self.counts["steps"]]

    def step(self, name: str) -> str | None:
        """The folder of the first step with a name; None where the run has none."""
        return next((folder for folder in self.steps if folder.partition("-")[2] == name), None)

    def table(self, step: str, shard: str) -> list[dict[str, Any]]:
        """Rows of a step on a shard: `number`, `key`, `drop`, `labels`, `models`, and `values`."""
        path = self.folder / "tables" / step / f"{shard}.parquet"
        if not path.exists():
            raise NotMade(f"{path} is missing: run `openpali web` with the same configuration again")
        return [{"number": row.number, "key": row.key} | asdict(row.verdict) for row in read_table(path)]

    def distinct(self, step: str, column: str) -> set[str]:
        """The different texts in a column of a step, on all samples."""
        folder = self.folder / "tables" / step
        files = (parquet.read_table(folder / f"{shard}.parquet", columns=[column]) for shard in self.shards)
        return {text for table in files for text in table[column].unique().to_pylist()}

    def index_file(self, shard: str) -> Path:
        """The index of a made shard."""
        return self.folder / "index" / f"{shard}.parquet"

    def index_files(self) -> Iterator[Path]:
        """The index of each made shard."""
        yield from map(self.index_file, self.shards)

    def _json(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        if not path.exists():
            raise NotMade(f"{path} is missing: {self.folder} is not the --output of a finished `openpali web`")
        return json.loads(path.read_text("utf-8"))
