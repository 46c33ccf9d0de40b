"""How far a score would be off with other examples of the same kind: percentile intervals by bootstrap.

Examples are drawn anew, with replacement, as many as there are, a thousand times with a fixed seed; the interval holds
the middle 95 % of the scores. Models are compared on the same draws, so that what is hard for both cancels out.
Nothing is generated again and nothing is drawn by loops over examples: a resample is a row of weights, how often each
example was drawn, and a metric is computed from weighted sums (`openpali.eval.intervals.by_metric` says how).

The interval is about the choice of examples alone. Training with another seed moves a score further than that.
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
    """Another model's score less the first one's, on the same examples.

    Attributes:
        value: on all examples.
        low: end of the interval.
        high: likewise.
        p: share of resamples on the other side of 0, or at 0, doubled: small where the sign is hardly chance.
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
        empty: value of a single group with nothing in the denominator. Of several groups such a one does not count.
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
    """A statistic that has no value, nan, in resamples of which no example counts.

    Attributes:
        statistic: of weights.
        counting: float[N], above 0 where an example counts, such as its number of true boxes.
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
    """How often each example was drawn: float[r, N], some resamples at a time, `count` rows in all."""
    generator = np.random.default_rng(seed)
    at_once = max(1, _NUMBERS_AT_ONCE // examples)
    for start in range(0, count, at_once):
        rows = min(at_once, count - start)
        drawn = generator.integers(0, examples, (rows, examples))
        # one count for all rows: each has its own stretch of numbers
        shifted = (drawn + examples * np.arange(rows)[:, None]).ravel()
        yield np.bincount(shifted, minlength=rows * examples).reshape(rows, examples).astype(np.float64)


def whole(statistic: Statistic, examples: int) -> float:
    """A statistic of every example once."""
    return float(statistic(np.ones((1, examples)))[0])


def drawn_values(statistics: Mapping[str, Statistic], examples: int, count: int, seed: int) -> dict[str, np.ndarray]:
    """float[count] of each statistic, all on the same resamples."""
    parts: dict[str, list[np.ndarray]] = {key: [] for key in statistics}
    for weights in resamples(examples, count, seed):
        for key, statistic in statistics.items():
            parts[key].append(statistic(weights))
    return {key: np.concatenate(values) for key, values in parts.items()}


def intervals(
    statistics: Mapping[str, Statistic], examples: int, count: int = RESAMPLES, seed: int = SEED
) -> dict[str, tuple[float, float]]:
    """Low and high end of the 95 % interval of each statistic.

    Args:
        statistics: by name.
        examples: their number.
        count: of resamples.
        seed: of the draws.
    """
    return {key: ends(values) for key, values in drawn_values(statistics, examples, count, seed).items()}


def differences(
    first: Mapping[str, Statistic],
    other: Mapping[str, Statistic],
    examples: int,
    count: int = RESAMPLES,
    seed: int = SEED,
) -> dict[str, Difference]:
    """The paired difference of each statistic that both have, other less first.

    Args:
        first: statistics of one model by name.
        other: of another one, on the same examples in the same order.
        examples: their number.
        count: of resamples.
        seed: of the draws, the same for both.
    """
    shared = [key for key in first if key in other]
    before = drawn_values({key: first[key] for key in shared}, examples, count, seed)
    after = drawn_values({key: other[key] for key in shared}, examples, count, seed)
    found = {}
    for key in shared:
        values = after[key] - before[key]
        values = values[~np.isnan(values)]
        p = min(1.0, 2 * min(float((values <= 0).mean()), float((values >= 0).mean())))
        found[key] = Difference(whole(other[key], examples) - whole(first[key], examples), *ends(values), p)
    return found


def ends(values: np.ndarray) -> tuple[float, float]:
    """The percentiles that enclose 95 % of float[R]; without resamples that have no value, as of an absent type."""
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.nanpercentile(values, [tail, 100 - tail])
    return float(low), float(high)
