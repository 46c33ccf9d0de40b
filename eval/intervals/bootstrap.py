"""95 % bootstrap confidence intervals of scores (percentile method), and of differences between models.

A resample draws as many examples as there are, with replacement; there are 1,000 resamples with a fixed seed, and the
interval is the middle 95 % of their scores. Differences are paired: both models are scored on the same resamples.
Nothing is generated again, and there is no loop over examples: a resample is a row of weights, the number of draws of
each example, and a metric is computed from weighted sums (see `openpali.eval.intervals.by_metric`).

An interval covers the choice of examples alone. Training with another seed changes a score by more.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

RESAMPLES, SEED, LEVEL = 1000, 0, 0.95
_NUMBERS_AT_ONCE = 4_000_000  # 32 MB of weights

# scores float[R] of R resamples, from weights float[R, N] of N examples
Statistic: TypeAlias = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Difference:
    """Another model's score minus the first one's, on the same examples.

    Attributes:
        value: on all examples.
        low: lower end of its 95 % bootstrap confidence interval.
        high: upper end.
        p: two-sided p-value: twice the share of resamples with the other sign or 0.
    """

    value: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Ratios:
    """The mean over G groups of a weighted sum by another one: means, means over types, F1, IoU.

    Attributes:
        above: float[N, G], what each example adds to the numerator of each group.
        below: float[N, G], likewise to the denominator.
        empty: value where all denominators are 0. Of several groups those with a denominator of 0 do not count.
    """

    above: np.ndarray
    below: np.ndarray
    empty: float = np.nan

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """float[R] of weights float[R, N]."""
        above, below = weights @ self.above, weights @ self.below
        there = below > 0
        values = np.divide(above, below, out=np.zeros_like(above), where=there)
        groups = there.sum(axis=1)
        return np.where(groups > 0, values.sum(axis=1) / np.maximum(groups, 1), self.empty)


@dataclass(frozen=True)
class Defined:
    """A statistic that is nan in resamples without any example that counts.

    Attributes:
        statistic: of weights.
        counting: float[N], above 0 where an example counts, such as its number of ground-truth boxes.
    """

    statistic: Statistic
    counting: np.ndarray

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """float[R] of weights float[R, N]."""
        return np.where(weights @ self.counting > 0, self.statistic(weights), np.nan)


def ratio(above: Sequence[float] | np.ndarray, below: Sequence[float] | np.ndarray, empty: float = np.nan) -> Ratios:
    """One weighted sum by another, of N numbers each."""
    return Ratios(np.asarray(above, np.float64)[:, None], np.asarray(below, np.float64)[:, None], empty)


def mean_by_type(values: Sequence[float], there: Sequence[bool] | np.ndarray, types: Sequence[str]) -> Ratios:
    """The mean over types of the mean of each type's examples; of those alone that are `there`."""
    columns = np.array([[kind == one for one in sorted(set(types))] for kind in types], np.float64)
    columns *= np.asarray(there, np.float64)[:, None]
    return Ratios(columns * np.asarray(values, np.float64)[:, None], columns)


def resamples(examples: int, count: int = RESAMPLES, seed: int = SEED) -> Iterator[np.ndarray]:
    """Number of draws of each example, float[r, N], in blocks of resamples with `count` rows in all."""
    generator = np.random.default_rng(seed)
    at_once = max(1, _NUMBERS_AT_ONCE // examples)
    for start in range(0, count, at_once):
        rows = min(at_once, count - start)
        drawn = generator.integers(0, examples, (rows, examples))
        # one count for all rows: each has its own stretch of numbers
        shifted = (drawn + examples * np.arange(rows)[:, None]).ravel()
        yield np.bincount(shifted, minlength=rows * examples).reshape(rows, examples).astype(np.float64)


def full_sample(statistic: Statistic, examples: int) -> float:
    """A statistic of the examples themselves, each with weight 1."""
    return float(statistic(np.ones((1, examples)))[0])


def resampled_values(
    statistics: Mapping[str, Statistic], examples: int, count: int, seed: int
) -> dict[str, np.ndarray]:
    """float[count] of each statistic, all on the same resamples."""
    parts: dict[str, list[np.ndarray]] = {key: [] for key in statistics}
    for weights in resamples(examples, count, seed):
        for key, statistic in statistics.items():
            parts[key].append(statistic(weights))
    return {key: np.concatenate(values) for key, values in parts.items()}


def intervals(
    statistics: Mapping[str, Statistic], examples: int, count: int = RESAMPLES, seed: int = SEED
) -> dict[str, tuple[float, float]]:
    """Ends of the 95 % bootstrap confidence interval of each statistic.

    Args:
        statistics: by name.
        examples: their number.
        count: of resamples.
        seed: of the draws.
    """
    return {
        key: percentile_interval(values) for key, values in resampled_values(statistics, examples, count, seed).items()
    }


def differences(
    first: Mapping[str, Statistic],
    other: Mapping[str, Statistic],
    examples: int,
    count: int = RESAMPLES,
    seed: int = SEED,
) -> dict[str, Difference]:
    """The paired difference of each statistic that both have, other minus first.

    Args:
        first: statistics of one model by name.
        other: of another one, on the same examples in the same order.
        examples: their number.
        count: of resamples.
        seed: of the draws, the same for both.
    """
    shared = [key for key in first if key in other]
    before = resampled_values({key: first[key] for key in shared}, examples, count, seed)
    after = resampled_values({key: other[key] for key in shared}, examples, count, seed)
    found = {}
    for key in shared:
        values = after[key] - before[key]
        values = values[~np.isnan(values)]
        p = min(1.0, 2 * min(float((values <= 0).mean()), float((values >= 0).mean())))
        found[key] = Difference(
            full_sample(other[key], examples) - full_sample(first[key], examples), *percentile_interval(values), p
        )
    return found


def percentile_interval(values: np.ndarray) -> tuple[float, float]:
    """The percentiles that enclose 95 % of float[R]; nan values, as of an absent type, do not count."""
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.nanpercentile(values, [tail, 100 - tail])
    return float(low), float(high)
