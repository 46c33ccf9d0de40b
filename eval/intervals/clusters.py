"""Metrics of questions that belong together, for the bootstrap: pairs of questions, and views of an object.

A pair or an object is drawn as a whole: it has the weight of its first question, whatever the others have. About as
many are drawn as there are; how many varies a little, and the ratio makes up for it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from openpali.eval.answering.confidence import answer_confidence
from openpali.eval.intervals.bootstrap import Ratios, Statistic, ratio
from openpali.eval.metrics.multiview import multiview
from openpali.eval.metrics.pair_accuracy import pair_accuracy
from openpali.eval.scoring.answer_metric import match_scores, read_reference

Rows = Sequence[Mapping[str, Any]]


def pair_statistics(name: str, rows: Rows) -> dict[str, Statistic]:
    """Statistics of the metric pair_accuracy."""
    scores = [row["score"] for row in rows]
    found = pair_accuracy.pairs([read_reference(row["reference"], i)["type"] for i, row in enumerate(rows)])
    alone = set(range(len(rows))) - {place for pair in found for place in pair}
    clusters = [list(pair) for pair in found] + [[place] for place in sorted(alone)]
    both = {pair[0]: min(scores[pair[0]], scores[pair[1]]) for pair in found}
    return {
        "pair_accuracy": of_clusters(both, dict.fromkeys(both, 1.0), len(rows)),
        "accuracy": mean_of_members(clusters, scores),
    }


def view_statistics(name: str, rows: Rows) -> dict[str, Statistic]:
    """Statistics of the metric multiview."""
    references = [read_reference(row["reference"], index) for index, row in enumerate(rows)]
    objects = multiview.views([reference["type"] for reference in references])
    texts, confidences = [row["prediction"] for row in rows], [answer_confidence(row) for row in rows]
    joined = [multiview.join(texts, own, confidences) for own in objects]
    right = match_scores(joined, [references[own[0]] for own in objects], multiview.normalise)
    values = {own[0]: value for own, value in zip(objects, right, strict=True)}
    return {
        "accuracy": of_clusters(values, dict.fromkeys(values, 1.0), len(rows)),
        "view_accuracy": mean_of_members(objects, [row["score"] for row in rows]),
    }


def mean_of_members(clusters: Sequence[Sequence[int]], scores: Sequence[float]) -> Ratios:
    """The mean over the members of the drawn clusters."""
    sums = {own[0]: sum(scores[place] for place in own) for own in clusters}
    return of_clusters(sums, {own[0]: float(len(own)) for own in clusters}, len(scores))


def of_clusters(above: Mapping[int, float], below: Mapping[int, float], examples: int) -> Ratios:
    """A ratio of sums over clusters, each at the place of its first member."""
    parts = np.zeros((2, examples))
    for row, values in zip(parts, (above, below), strict=True):
        for place, value in values.items():
            row[place] = value
    return ratio(parts[0], parts[1])
