"""Histograms of the scores of `similarity` by language, with the thresholds of `best_share`, as bars for a page."""

import json
from dataclasses import dataclass

import numpy as np
from pyarrow import parquet

from openpali.eval.prompts.language_names import LANGUAGE_NAMES
from openpali.scripts.web.pages.made_set import MadeSet

BINS = 40
MOST = 12  # languages with a histogram, the most frequent ones
ALL = "all"


@dataclass(frozen=True)
class Histogram:
    """Counts of scores.

    Attributes:
        name: of the language.
        counts: of each bin; bins are of equal width.
        least: lower edge of the first bin.
        most: upper edge of the last bin.
        threshold: of `best_share`; None without that step.
        kept: share of the scores that are at least the threshold.
    """

    name: str
    counts: tuple[int, ...]
    least: float
    most: float
    threshold: float | None
    kept: float | None

    @property
    def heights(self) -> list[float]:
        """Of the bars, in [0, 1]."""
        highest = max(self.counts)
        return [count / highest for count in self.counts]

    @property
    def place(self) -> float | None:
        """Of the threshold between both ends, in [0, 1]."""
        if self.threshold is None:
            return None
        return min(max((self.threshold - self.least) / (self.most - self.least), 0.0), 1.0)

    @property
    def total(self) -> int:
        """Number of scores."""
        return sum(self.counts)

    def is_kept(self, bar: int) -> bool:
        """Whether the middle of a bar lies above the threshold."""
        return self.place is None or (bar + 0.5) / len(self.counts) >= self.place


def score_histograms(made: MadeSet) -> list[Histogram]:
    """A histogram for each language that has a threshold of its own; empty without the step `similarity`."""
    step, limits = made.step("similarity"), thresholds(made)
    if step is None:
        return []
    by_language = ALL not in limits
    found: dict[str, list[float]] = {}
    for shard in made.shards:
        table = parquet.read_table(made.folder / "tables" / step / f"{shard}.parquet").to_pydict()
        for drop, score, language in zip(table["drop"], table.get("score", ()), table.get("score_language", ())):
            if not drop:
                found.setdefault(language if by_language else ALL, []).append(score)
    frequent = sorted(found, key=lambda language: (-len(found[language]), language))[:MOST]
    edges = [min(map(min, found.values()), default=0.0), max(map(max, found.values()), default=0.0)]
    return [histogram(language, found[language], edges, limits.get(language)) for language in frequent]


def histogram(language: str, values: list[float], edges: list[float], threshold: float | None) -> Histogram:
    """The histogram of the scores of a language between two edges."""
    least, most = edges[0], edges[1] if edges[1] > edges[0] else edges[0] + 1e-6
    scores = np.asarray(values, float)
    counts, _ = np.histogram(scores, BINS, (least, most))
    kept = None if threshold is None else float((scores >= threshold).mean())
    name = LANGUAGE_NAMES.get(language, "all languages" if language == ALL else language)
    return Histogram(name, tuple(counts.tolist()), least, most, threshold, kept)


def thresholds(made: MadeSet) -> dict[str, float]:
    """The thresholds of `best_share` by language; empty without that step."""
    step = made.step("best_share")
    path = made.folder / "tables" / (step or "") / "thresholds.json"
    return json.loads(path.read_text("utf-8"))["thresholds"] if step and path.exists() else {}
