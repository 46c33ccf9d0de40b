"""Tables of what a step says of a shard's samples: Parquet, a row for each sample that reached the step."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
from pyarrow import parquet

from openpali.data.records import BadRecord
from openpali.scripts.shards.parallel import written_aside
from openpali.scripts.web.plan import StepPlan, WebRun
from openpali.scripts.web.samples import Verdict, merged

FIXED = ("number", "key", "drop", "labels", "models")
_TEXT = pyarrow.string()
_UNUSABLE = pyarrow.schema([(name, _TEXT) for name in ("file", "record", "reason", "remedy")])


class Row(NamedTuple):
    """What a step says of a sample, by the sample's number in its shard and its key."""

    number: int
    key: str
    verdict: Verdict


class Survivor(NamedTuple):
    """A sample that all steps so far have kept.

    Attributes:
        number: of the sample in its shard.
        key: of the sample in its shard.
        verdicts: of the steps so far, in their order.
    """

    number: int
    key: str
    verdicts: list[Verdict]

    def merged(self, record: dict[str, Any]) -> dict[str, Any]:
        """A raw record with the labels of all steps so far."""
        for verdict in self.verdicts:
            record = merged(record, verdict)
        return record

    @property
    def values(self) -> dict[str, Any]:
        """What the steps so far have put in their tables."""
        return {key: value for verdict in self.verdicts for key, value in verdict.values.items()}


def write_table(path: Path, rows: list[Row]) -> None:
    """Write a step's table of a shard."""
    columns: dict[str, Any] = {
        "number": pyarrow.array([row.number for row in rows], pyarrow.int64()),
        "key": pyarrow.array([row.key for row in rows], _TEXT),
        "drop": pyarrow.array([row.verdict.drop for row in rows], _TEXT),
        "labels": pyarrow.array([_text(row.verdict.labels) for row in rows], _TEXT),
        "models": pyarrow.array([_text(row.verdict.models) for row in rows], _TEXT),
    }
    for name in dict.fromkeys(name for row in rows for name in row.verdict.values):
        columns[name] = pyarrow.array([row.verdict.values.get(name) for row in rows])
    with written_aside(path) as aside:
        parquet.write_table(pyarrow.table(columns), aside, compression="zstd")


def read_table(path: Path) -> list[Row]:
    """The rows of `write_table`."""
    table = parquet.read_table(path)
    columns = table.to_pydict()
    names = [name for name in table.column_names if name not in FIXED]
    values = [
        {name: value for name, value in zip(names, row) if value is not None}
        for row in zip(*(columns[name] for name in names))
    ] or [{}] * table.num_rows
    fixed = zip(*(columns[name] for name in FIXED), values)
    return [
        Row(number, key, Verdict(drop, _content(labels), _content(models), own))
        for number, key, drop, labels, models, own in fixed
    ]


def survivors(run: WebRun, shard: str, before: StepPlan | None = None) -> list[Survivor] | None:
    """Samples of a shard that the steps before one have kept, or all steps; None where no step is before it."""
    earlier = [plan for plan in run.steps if before is None or plan.place < before.place]
    if not earlier:
        return None
    found: dict[int, Survivor] = {}
    for place, plan in enumerate(earlier):
        rows = read_table(run.table(plan, shard))
        found = {
            row.number: Survivor(row.number, row.key, [*(found[row.number].verdicts if place else ()), row.verdict])
            for row in rows
            if not row.verdict.drop
        }
    return list(found.values())


def write_unusable(path: Path, rows: list[BadRecord]) -> None:
    """Write the samples of a shard that cannot be used."""
    columns = {name: [str(getattr(row, name)) for row in rows] for name in _UNUSABLE.names}
    with written_aside(path) as aside:
        parquet.write_table(pyarrow.table(columns, schema=_UNUSABLE), aside)


def read_unusable(path: Path) -> list[BadRecord]:
    """The rows of `write_unusable`."""
    return [BadRecord(**row) for row in parquet.read_table(path).to_pylist()]


def _text(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False) if value else ""


def _content(text: str) -> dict[str, Any]:
    return json.loads(text) if text else {}
