"""What a row's scores say about the paper's finding: means, intervals over seeds, and a verdict on each claim."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

CONFIDENCE = 0.95

Scores = dict[str, dict[int, dict[str, float]]]  # variant, seed, measure


@dataclass(frozen=True)
class Mean:
    """A mean over seeds and the half-width of its interval, by Student's t; infinite for a single seed."""

    value: float
    half: float
    seeds: int

    def __str__(self) -> str:
        """As in a table."""
        around = "" if not np.isfinite(self.half) else f" ± {digits(self.half)}"
        return f"{digits(self.value)}{around}"


def digits(value: float) -> str:
    """Three figures behind the point below 10, one above."""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def mean_of(values: list[float]) -> Mean:
    """The mean of one value a seed."""
    found, count = np.asarray(values, float), len(values)
    spread = found.std(ddof=1) / np.sqrt(count) if count > 1 else np.inf
    return Mean(float(found.mean()), float(spread * stats.t.ppf((1 + CONFIDENCE) / 2, max(count - 1, 1))), count)


def by_variant(lines: list[dict[str, Any]]) -> Scores:
    """Scores of a row from its lines of results."""
    scores: Scores = {}
    for line in lines:
        scores.setdefault(line["variant"], {})[line["seed"]] = line["scores"]
    return scores


def variant_mean(scores: Scores, variant: str, measure: str) -> Mean | None:
    """The mean of a measure over the seeds that have it; None where none has."""
    values = [found[measure] for found in scores.get(variant, {}).values() if measure in found]
    return mean_of(values) if values else None


def difference(scores: Scores, first: str, second: str, measure: str) -> Mean | None:
    """Mean of first − second over the seeds that both have; None without one."""
    one, other = scores.get(first, {}), scores.get(second, {})
    shared = [seed for seed in one if seed in other and measure in one[seed] and measure in other[seed]]
    return mean_of([one[seed][measure] - other[seed][measure] for seed in shared]) if shared else None


@dataclass(frozen=True)
class Verdict:
    """A claim, the difference that was found, and whether they agree.

    Attributes:
        claim: in words.
        found: the difference over seeds; None where the row has not run.
        word: `agrees`, `disagrees`, `not decided` or `not run`.
    """

    claim: str
    found: Mean | None
    word: str

    def __str__(self) -> str:
        """As in a list."""
        if self.found is None:
            return f"{self.claim}: {self.word}"
        return f"{self.claim}: difference {self.found}, **{self.word}**"


def verdict(claim: dict[str, Any], scores: Scores, lower: list[str]) -> Verdict:
    """What the scores say of a claim.

    A difference is decided if its interval over seeds leaves out 0; an equality if the interval lies within the
    claim's margin.
    """
    measure, equal = claim["measure"], "equal" in claim
    first, second = claim["equal"] if equal else (claim["better"], claim["than"])
    margin = float(claim["within"]) if equal else 0.0
    how = f"{first} equals {second}, within {digits(margin)}" if equal else f"{first} better than {second}"
    found = difference(scores, first, second, measure)
    if found is None:
        return Verdict(f"{measure}: {how}", None, "not run")
    low, high = found.value - found.half, found.value + found.half
    if equal:
        agrees, disagrees = -margin <= low and high <= margin, low > margin or high < -margin
    else:
        above, below = low > 0, high < 0
        agrees, disagrees = (below, above) if measure in lower else (above, below)
    word = "agrees" if agrees else "disagrees" if disagrees else "not decided"
    return Verdict(f"{measure}: {how}", found, word)
