"""Scores of groups of examples, and the largest gap between two of them, with 95 % bootstrap confidence intervals.

A group's score is the metric of its examples alone. Its examples are drawn anew, each group by itself, so that the
groups' sizes stay and a gap's interval is that of two independent samples. The pair of groups with the largest gap is
chosen by the scores themselves, and among many groups some pair is always far apart. So a gap also has a p-value: how
often groups of the same sizes have such a gap when labels are exchanged at random.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from openpali.eval.groups.attributes import Attribute
from openpali.eval.intervals.bootstrap import RESAMPLES, SEED, Statistic, percentile_interval, resamples

FEW = 10
"""Groups with fewer examples have a score, but no part in the gap."""
SHUFFLES = 1000
_NUMBERS_AT_ONCE = 4_000_000  # 32 MB of weights


@dataclass(frozen=True)
class GroupScore:
    """A group's name, its number of examples, its score, and the ends of the score's interval."""

    name: str
    examples: int
    value: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Gap:
    """The largest gap between two groups.

    Attributes:
        highest: group with the highest score, of those with enough examples.
        lowest: likewise.
        value: the difference of their scores.
        interval: ends of the difference's interval.
        examples: of both groups together.
        p: share of random exchanges of labels with such a gap.
    """

    highest: str
    lowest: str
    value: float
    interval: tuple[float, float]
    examples: int
    p: float


@dataclass(frozen=True)
class AttributeScores:
    """Scores of an attribute's groups.

    Attributes:
        name: of the attribute.
        value: the score of all examples with a label.
        groups: a score each.
        gap: None where fewer than two groups have enough examples.
        missing: examples without a label.
    """

    name: str
    value: float
    groups: list[GroupScore]
    gap: Gap | None
    missing: int

    @property
    def few(self) -> list[str]:
        """Groups with too few examples for the gap."""
        return [group.name for group in self.groups if group.examples < FEW]

    @property
    def median(self) -> float:
        """The median of the groups' scores; nan where none has one."""
        values = [group.value for group in self.groups if not math.isnan(group.value)]
        return median(values) if values else math.nan


def score_groups(statistic: Statistic, attribute: Attribute, examples: int) -> AttributeScores:
    """Score every group, and find the largest gap.

    Args:
        statistic: of weights of all examples.
        attribute: its groups.
        examples: number of all examples.
    """
    value = value_of(statistic, np.concatenate(list(attribute.groups.values())), examples)
    drawn, scores = {}, []
    for number, (name, members) in enumerate(attribute.groups.items()):
        drawn[name] = resampled(statistic, members, examples, SEED + number)
        ends = percentile_interval(drawn[name]) if not np.isnan(drawn[name]).all() else (math.nan, math.nan)
        scores.append(GroupScore(name, len(members), value_of(statistic, members, examples), ends))
    large = [score for score in scores if score.examples >= FEW and not math.isnan(score.value)]
    if len(large) < 2:
        return AttributeScores(attribute.name, value, scores, None, attribute.missing)
    # sorting keeps two groups apart where all score alike
    highest, *_, lowest = sorted(large, key=lambda one: -one.value)
    ends = percentile_interval(drawn[highest.name] - drawn[lowest.name])
    gap = highest.value - lowest.value
    p = chance_of_gap(statistic, [attribute.groups[score.name] for score in large], gap, examples)
    found = Gap(highest.name, lowest.name, gap, ends, highest.examples + lowest.examples, p)
    return AttributeScores(attribute.name, value, scores, found, attribute.missing)


def value_of(statistic: Statistic, members: np.ndarray, examples: int) -> float:
    """The statistic of some examples alone, int[n] of their indices."""
    weights = np.zeros((1, examples))
    weights[0, members] = 1
    return float(statistic(weights)[0])


def resampled(statistic: Statistic, members: np.ndarray, examples: int, seed: int) -> np.ndarray:
    """float[R] of resamples of some examples, int[n] of their indices."""
    rows = max(1, _NUMBERS_AT_ONCE // examples)
    values = []
    for block in resamples(len(members), RESAMPLES, seed):
        for start in range(0, len(block), rows):
            part = block[start : start + rows]
            weights = np.zeros((len(part), examples))
            weights[:, members] = part
            values.append(statistic(weights))
    return np.concatenate(values)


def chance_of_gap(statistic: Statistic, groups: Sequence[np.ndarray], gap: float, examples: int) -> float:
    """Share of random exchanges of the groups' labels whose largest gap is at least `gap`; never 0."""
    members = np.concatenate(groups)
    labels = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    generator, rows, at_least = np.random.default_rng(SEED), max(1, _NUMBERS_AT_ONCE // examples), 0
    for start in range(0, SHUFFLES, rows):
        count = min(rows, SHUFFLES - start)
        shuffled = generator.permuted(np.tile(labels, (count, 1)), axis=1)
        values = []
        for number in range(len(groups)):
            weights = np.zeros((count, examples))
            weights[:, members] = shuffled == number
            values.append(statistic(weights))
        spread = np.nanmax(values, axis=0) - np.nanmin(values, axis=0)
        # of equal sums rounding may give either
        at_least += int((spread >= gap - 1e-9).sum())
    return (1 + at_least) / (1 + SHUFFLES)
