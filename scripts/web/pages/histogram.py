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
FINE = 4000  # bins between -1 and 1 in which scores are counted


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


@dataclass
class Tally:
    """Scores of a language, counted shard by shard: a set of any size takes the same memory."""

    fine: np.ndarray
    kept: int = 0

    def add(self, scores: np.ndarray, threshold: float | None) -> None:
        """Count more scores, cosines in [-1, 1]."""
        self.fine += np.histogram(np.clip(scores, -1, 1), FINE, (-1, 1))[0]
        self.kept += 0 if threshold is None else int((scores >= threshold).sum())


def score_histograms(made: MadeSet) -> list[Histogram]:
    """A histogram for each language that has a threshold of its own; empty without the step `similarity`."""
    step, limits = made.step("similarity"), thresholds(made)
    if step is None:
        return []
    found: dict[str, Tally] = {}
    for shard in made.shards:
        for language, scores in scores_of(made, step, shard, by_language=ALL not in limits).items():
            found.setdefault(language, Tally(np.zeros(FINE, int))).add(scores, limits.get(language))
    frequent = sorted(found, key=lambda language: (-int(found[language].fine.sum()), language))[:MOST]
    filled = np.flatnonzero(sum(found[language].fine for language in frequent)) if frequent else [0]
    first, wide = int(filled[0]), -(-(int(filled[-1]) - int(filled[0]) + 1) // BINS)
    return [histogram(language, found[language], first, wide, limits.get(language)) for language in frequent]


def scores_of(made: MadeSet, step: str, shard: str, by_language: bool) -> dict[str, np.ndarray]:
    """The scores of a shard by language, or all of them together."""
    table = parquet.read_table(made.folder / "tables" / step / f"{shard}.parquet").to_pydict()
    found: dict[str, list[float]] = {}
    for drop, score, language in zip(table["drop"], table.get("score", ()), table.get("score_language", ())):
        if not drop:
            found.setdefault(language if by_language else ALL, []).append(score)
    return {language: np.asarray(scores, float) for language, scores in found.items()}


def histogram(language: str, tally: Tally, first: int, wide: int, threshold: float | None) -> Histogram:
    """The histogram of a language, of `BINS` bins of `wide` fine ones from the `first` on."""
    fine = np.concatenate([tally.fine[first:], np.zeros(BINS * wide, int)])[: BINS * wide]
    least = -1 + 2 * first / FINE
    kept = None if threshold is None else tally.kept / int(tally.fine.sum())
    name = LANGUAGE_NAMES.get(language, "all languages" if language == ALL else language)
    counts = tuple(fine.reshape(BINS, wide).sum(axis=1).tolist())
    return Histogram(name, counts, least, least + 2 * BINS * wide / FINE, threshold, kept)


def thresholds(made: MadeSet) -> dict[str, float]:
    """The thresholds of `best_share` by language; empty without that step."""
    step = made.step("best_share")
    path = made.folder / "tables" / (step or "") / "thresholds.json"
    return json.loads(path.read_text("utf-8"))["thresholds"] if step and path.exists() else {}
