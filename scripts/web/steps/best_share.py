"""`best_share`: keeps the best share of the whole set by `similarity`, in each language (PaLI-3: about 40 % of WebLI).

The scores of all shards are never in one place. Each shard gives a DDSketch for each language; sketches are merged
exactly, in any order, and their quantiles are right to a relative error of `accuracy` in the score.
"""

from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from typing import Any

from openpali.scripts.shards.parallel import write_json
from openpali.scripts.web.cluster import over_shards
from openpali.scripts.web.plan import StepPlan, WebRun
from openpali.scripts.web.samples import KEEP, Verdict
from openpali.scripts.web.tables import Row, survivors, write_table

ALL = "all"


@dataclass(frozen=True)
class BestShare:
    """Drops the samples below the quantile of their language.

    Attributes:
        share: to keep, above 0 and at most 1.
        by_language: whether each language has a threshold of its own.
        least_score: samples below it go in any case; None for no such limit.
        accuracy: relative error of the thresholds.
    """

    share: float = 0.4
    by_language: bool = True
    least_score: float | None = None
    accuracy: float = 0.001
    needs = "similarity"

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share is above 0 and at most 1, not {self.share:g}")
        if not 0 < self.accuracy < 1:
            raise ValueError(f"accuracy is between 0 and 1, not {self.accuracy:g}")

    def decide(self, run: WebRun, plan: StepPlan) -> None:
        """Merge the sketches of all shards, and write the tables; the thresholds go to a JSON file beside them."""
        from ddsketch import DDSketch

        total: dict[str, Any] = defaultdict(lambda: DDSketch(self.accuracy))
        every = range(len(run.names))
        for row in over_shards(every, partial(sketch_shard, run=run, plan=plan), "sketching scores"):
            for language, sketch in row["sketches"].content.items():
                total[language].merge(sketch)
        thresholds = {key: total[key].get_quantile_value(1 - self.share) for key in sorted(total)}
        if self.share == 1:
            thresholds = dict.fromkeys(thresholds, float("-inf"))
        pairs = {key: int(total[key].count) for key in thresholds}
        over_shards(every, partial(apply_thresholds, run=run, plan=plan, thresholds=thresholds), "best share")
        content = {"share": self.share, "accuracy": self.accuracy, "pairs": pairs}
        finite = {key: value for key, value in thresholds.items() if value != float("-inf")}
        write_json(run.output / "tables" / plan.folder / "thresholds.json", content | {"thresholds": finite})

    def group(self, values: dict[str, Any]) -> str:
        """The language of a score, or all."""
        return values["score_language"] if self.by_language else ALL

    def verdict(self, values: dict[str, Any], thresholds: dict[str, float]) -> Verdict:
        """A reason where the score is too low."""
        if self.least_score is not None and values["score"] < self.least_score:
            return Verdict(drop="similarity below least_score")
        if values["score"] < thresholds[self.group(values)]:
            return Verdict(drop=f"similarity below the best {100 * self.share:g} %")
        return KEEP


class Sketches:
    """Sketches by language, as one value of a row."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content


def sketch_shard(row: dict[str, Any], run: WebRun, plan: StepPlan) -> dict[str, Any]:
    """The sketches of a shard's scores."""
    from ddsketch import DDSketch

    found: dict[str, Any] = {}
    for one in survivors(run, run.names[int(row["shard"])], plan) or ():
        group = plan.step.group(one.values)
        found.setdefault(group, DDSketch(plan.step.accuracy)).add(one.values["score"])
    return {"shard": row["shard"], "sketches": Sketches(found)}


def apply_thresholds(row: dict[str, Any], run: WebRun, plan: StepPlan, thresholds: dict[str, float]) -> dict[str, Any]:
    """Write the table of a shard."""
    name = run.names[int(row["shard"])]
    kept = survivors(run, name, plan) or ()
    write_table(
        run.table(plan, name), [Row(one.number, one.key, plan.step.verdict(one.values, thresholds)) for one in kept]
    )
    return row
