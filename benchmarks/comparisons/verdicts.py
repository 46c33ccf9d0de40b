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


def verdict(claim: dict[str, Any], scores: Scores, lower: list[str]) -> str:
    """One line: the claim, what was found, and whether they agree.

    A difference is decided if its interval over seeds leaves out 0; an equality if the interval lies within the
    claim's margin.
    """
    measure = claim["measure"]
    if "equal" in claim:
        first, second = claim["equal"]
        found, margin = difference(scores, first, second, measure), float(claim["within"])
        text = f"{measure}: {first} equals {second}, within {digits(margin)}"
        if found is None:
            return f"{text}: not run"
        low, high = found.value - found.half, found.value + found.half
        decided = (
            "agrees" if -margin <= low and high <= margin else "disagrees" if low > margin or high < -margin else ""
        )
    else:
        first, second = claim["better"], claim["than"]
        found = difference(scores, first, second, measure)
        text = f"{measure}: {first} better than {second}"
        if found is None:
            return f"{text}: not run"
        gain = -found.value if measure in lower else found.value
        decided = "" if abs(gain) <= found.half else "agrees" if gain > 0 else "disagrees"
    return f"{text}: difference {found}, **{decided or 'not decided'}**"
