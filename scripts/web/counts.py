"""What each step of `openpali web` has dropped, and why, counted over all shards."""

import json
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from openpali.scripts.web.cluster import over_shards
from openpali.scripts.web.plan import WebRun
from openpali.scripts.web.tables import read_table, read_unusable, survivors


@dataclass
class Counts:
    """Numbers of samples.

    Attributes:
        samples: in the raw shards.
        unusable: of them, that cannot be decoded.
        kept: of them, in the shards that were made.
        reached: of each step.
        dropped: of each step, by reason.
    """

    samples: int = 0
    unusable: int = 0
    kept: int = 0
    reached: Counter[str] = field(default_factory=Counter)
    dropped: dict[str, Counter[str]] = field(default_factory=dict)

    def content(self) -> dict[str, Any]:
        """As JSON."""
        steps = [
            {"step": step, "reached": self.reached[step], "dropped": dict(reasons.most_common())}
            for step, reasons in self.dropped.items()
        ]
        return {"samples": self.samples, "unusable": self.unusable, "steps": steps, "kept": self.kept}

    def lines(self) -> list[str]:
        """As text, a line for each step and reason."""
        lines = [f"{self.samples:,} samples, of which {self.unusable:,} cannot be used"]
        for step, reasons in self.dropped.items():
            lines.append(f"{step}: {reasons.total():,} of {self.reached[step]:,} dropped")
            lines += [f"  {count:,} {reason}" for reason, count in reasons.most_common()]
        return [*lines, f"{self.kept:,} samples kept"]


def count_shard(row: dict[str, Any], run: WebRun) -> dict[str, Any]:
    """The counts of a shard, from its tables."""
    name = run.names[int(row["shard"])]
    counts = Counts(unusable=len(read_unusable(run.unusable(name))))
    for plan in run.steps:
        rows = read_table(run.table(plan, name))
        counts.reached[plan.folder] = len(rows)
        counts.dropped[plan.folder] = Counter(row.verdict.drop for row in rows if row.verdict.drop)
    counts.samples = counts.unusable + counts.reached[run.steps[0].folder]
    counts.kept = len(survivors(run, name) or ())
    return {"shard": row["shard"], "counts": json.dumps(counts.content())}


def count_run(run: WebRun) -> Counts:
    """The counts of all shards."""
    total = Counts(dropped={plan.folder: Counter() for plan in run.steps})
    for row in over_shards(range(len(run.names)), partial(count_shard, run=run), "counting"):
        own = json.loads(row["counts"])
        total.samples += own["samples"]
        total.unusable += own["unusable"]
        total.kept += own["kept"]
        for step in own["steps"]:
            total.reached[step["step"]] += step["reached"]
            total.dropped[step["step"]] += Counter(step["dropped"])
    return total
