"""Each metric as weighted sums over examples, for the bootstrap.

Which sums a metric is made of:
- means of answers (accuracies, ANLS, exact match), also by type of question: the score of each example;
- means over types with the same weight each (`relaxed_accuracy` of human and augmented, `mean_accuracy` of RSVQA):
  the means of a resample's own questions of each type, averaged; a type that was not drawn does not count;
- ratios of counts (F1, precision, recall of boxes and of POPE; IoU of masks): what each image adds above and below;
- CIDEr: the mean of each caption's score. Its n-grams stay weighed by how rare they are among the references of the
  whole set; otherwise every caption's score would change with what else was drawn;
- BLEU: matches and lengths, from which it is computed anew; ROUGE-L: a mean;
- mAP: computed anew from ranked boxes (`openpali.eval.intervals.average_precision`).

A statistic that does not give the metric's own value on the whole set is left out, and that number has no interval. So
a metric of your own has one for each key that is the mean of the `scores` it returns.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import evaluate
import numpy as np

from openpali.data.files import renamed
from openpali.eval.answering.evaluate_task import TaskResult, load_metric
from openpali.eval.intervals.bootstrap import (
    RESAMPLES,
    SEED,
    Difference,
    Statistic,
    differences,
    intervals,
    mean_by_type,
    ratio,
    whole,
)
from openpali.eval.intervals.captions import caption_statistics
from openpali.eval.intervals.regions import box_statistics, mask_statistics
from openpali.eval.scoring.answer_metric import AnswerMetric, Reference, read_reference

Rows = Sequence[Mapping[str, Any]]


def add_intervals(result: TaskResult, metric: str) -> None:
    """Fill in the intervals of a result, of every number that has one.

    Args:
        result: of a task with this metric; its rows have scores.
        metric: folder of the metric.
    """
    result.intervals = intervals(statistics(metric, result), len(result.predictions), RESAMPLES, SEED)


def compare_results(metric: str, first: TaskResult, other: TaskResult) -> dict[str, Difference]:
    """Differences of two models' numbers, other less first, by paired bootstrap.

    Raises:
        ValueError: they did not answer the same examples.
    """
    if [row["id"] for row in first.predictions] != [row["id"] for row in other.predictions]:
        raise ValueError(f"the predictions of {first.name} are not of the same examples: models cannot be compared")
    both = statistics(metric, first), statistics(metric, other)
    return differences(*both, len(first.predictions), RESAMPLES, SEED)


def statistics(metric: str, result: TaskResult) -> dict[str, Statistic]:
    """The statistics of a result's numbers by name; those that give the number itself on the whole set."""
    rows, known = result.predictions, result.metrics
    made = STATISTICS.get(renamed.current(metric, renamed.METRICS), answer_statistics)(metric, rows)
    scores = ratio([row["score"] for row in rows], np.ones(len(rows)))
    made = {key: made.get(key, scores) for key in known if key != "examples"}
    return {key: one for key, one in made.items() if abs(whole(one, len(rows)) - known[key]) <= 1e-6}


def answer_statistics(name: str, rows: Rows) -> dict[str, Statistic]:
    """Of a metric of answers, from its numbers on each answer alone; none of a metric of another kind."""
    metric = load_metric(name)
    if not isinstance(metric, AnswerMetric):
        return {}
    references = [read_reference(row["reference"], index) for index, row in enumerate(rows)]
    singles = [single(metric, row["prediction"], one) for row, one in zip(rows, references, strict=True)]
    keys = dict.fromkeys(key for one in singles for key in one)
    made: dict[str, Statistic] = {}
    for key in keys:
        values, there = [one.get(key, 0.0) for one in singles], [key in one for one in singles]
        if key in MEANS_OVER_TYPES:
            made[key] = mean_by_type(values, there, [one["type"] for one in references])
        else:
            made[key] = ratio(values, there)
    return made


# numbers that are means over types, and not over questions
MEANS_OVER_TYPES = ("relaxed_accuracy", "mean_accuracy", "mean_accuracy_without_numbers")


def single(metric: evaluate.EvaluationModule, prediction: str, reference: Reference) -> dict[str, float]:
    """The numbers of a metric on one answer: without `compute`, which writes a table for each call."""
    return metric._compute(predictions=[prediction], references=[reference])


def pope_statistics(name: str, rows: Rows) -> dict[str, Statistic]:
    """Precision, recall and F1 of the answer "yes" beside the means."""
    said = np.array([row["prediction"].strip().lower() == "yes" for row in rows], np.float64)
    references = [read_reference(row["reference"], index) for index, row in enumerate(rows)]
    true = np.array([one["answers"][0].strip().lower() == "yes" for one in references], np.float64)
    hits = said * true
    made = {"precision": ratio(hits, said, 0.0), "recall": ratio(hits, true, 0.0)}
    return answer_statistics(name, rows) | made | {"f1": ratio(2 * hits, said + true, 0.0)}


STATISTICS: dict[str, Callable[[str, Rows], dict[str, Statistic]]] = {
    "detection": box_statistics,
    "captions": caption_statistics,
    # the mean of its scores
    "cider": lambda name, rows: {},
    "pope": pope_statistics,
    "segmentation": mask_statistics,
}
