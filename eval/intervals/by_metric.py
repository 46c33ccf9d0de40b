"""95 % bootstrap confidence intervals of each metric, computed from weighted sums over examples.

The sums of a metric:
- means of answers (accuracies, ANLS, exact match), also by type of question: the score of each example;
- means over types with the same weight each (`relaxed_accuracy` of human and augmented, `mean_accuracy` of RSVQA):
  the mean over the types that were drawn of their questions' means;
- ratios of counts (F1, precision, recall of boxes and of POPE; IoU of masks): numerator and denominator per image;
- CIDEr: the mean of the captions' scores. Document frequencies are those of the whole set; otherwise every caption's
  score would depend on the other examples of the resample;
- BLEU: recomputed from matches and lengths; ROUGE-L: a mean;
- pairs of questions and views of an object: drawn as a whole (`openpali.eval.intervals.clusters`);
- mAP: recomputed from ranked boxes (`openpali.eval.intervals.average_precision`).

A statistic that does not equal the metric's value on the whole set is dropped, and that key has no interval. So a
custom metric has one for each key that is the mean of its `scores`.
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
    full_sample,
    intervals,
    mean_by_type,
    ratio,
)
from openpali.eval.intervals.captions import caption_statistics
from openpali.eval.intervals.clusters import pair_statistics, view_statistics
from openpali.eval.intervals.regions import box_statistics, mask_statistics
from openpali.eval.scoring.answer_metric import AnswerMetric, Reference, read_reference

Rows = Sequence[Mapping[str, Any]]


def add_intervals(result: TaskResult, metric: str) -> None:
    """Add 95 % bootstrap confidence intervals to a result, for every metric that has one.

    Args:
        result: of a task with this metric; its rows have scores.
        metric: folder of the metric.
    """
    result.intervals = intervals(statistics(metric, result), len(result.predictions), RESAMPLES, SEED)


def compare_results(metric: str, first: TaskResult, other: TaskResult) -> dict[str, Difference]:
    """Differences of two models' metrics, other minus first, by paired bootstrap.

    Raises:
        ValueError: the predictions are of different examples.
    """
    if [row["id"] for row in first.predictions] != [row["id"] for row in other.predictions]:
        raise ValueError(f"the predictions of {first.name} are not of the same examples: models cannot be compared")
    both = statistics(metric, first), statistics(metric, other)
    return differences(*both, len(first.predictions), RESAMPLES, SEED)


def statistics(metric: str, result: TaskResult) -> dict[str, Statistic]:
    """The statistics of a result by metric, as far as they equal the metric on the whole set."""
    rows, known = result.predictions, result.metrics
    made = STATISTICS.get(renamed.current(metric, renamed.METRICS), answer_statistics)(metric, rows)
    scores = ratio([row["score"] for row in rows], np.ones(len(rows)))
    made = {key: made.get(key, scores) for key in known if key != "examples"}
    return {key: one for key, one in made.items() if abs(full_sample(one, len(rows)) - known[key]) <= 1e-6}


def answer_statistics(name: str, rows: Rows) -> dict[str, Statistic]:
    """Statistics of an `AnswerMetric`, from its results on each answer alone; none for another kind of metric."""
    metric = load_metric(name)
    if not isinstance(metric, AnswerMetric):
        return {}
    references = [read_reference(row["reference"], index) for index, row in enumerate(rows)]
    singles = [result_of_one(metric, row["prediction"], one) for row, one in zip(rows, references, strict=True)]
    keys = dict.fromkeys(key for one in singles for key in one)
    made: dict[str, Statistic] = {}
    for key in keys:
        values, there = [one.get(key, 0.0) for one in singles], [key in one for one in singles]
        if key in MEANS_OVER_TYPES:
            made[key] = mean_by_type(values, there, [one["type"] for one in references])
        else:
            made[key] = ratio(values, there)
    return made


# keys that are means over types, and not over questions
MEANS_OVER_TYPES = ("relaxed_accuracy", "mean_accuracy", "mean_accuracy_without_numbers")


def result_of_one(metric: evaluate.EvaluationModule, prediction: str, reference: Reference) -> dict[str, float]:
    """Result of a metric on one answer; not by `compute`, which writes a table for each call."""
    return metric._compute(predictions=[prediction], references=[reference])


def pope_statistics(name: str, rows: Rows) -> dict[str, Statistic]:
    """Precision, recall and F1 of the answer "yes" beside the means."""
    predicted = np.array([row["prediction"].strip().lower() == "yes" for row in rows], np.float64)
    references = [read_reference(row["reference"], index) for index, row in enumerate(rows)]
    true = np.array([one["answers"][0].strip().lower() == "yes" for one in references], np.float64)
    hits = predicted * true
    made = {"precision": ratio(hits, predicted, 0.0), "recall": ratio(hits, true, 0.0)}
    return answer_statistics(name, rows) | made | {"f1": ratio(2 * hits, predicted + true, 0.0)}


STATISTICS: dict[str, Callable[[str, Rows], dict[str, Statistic]]] = {
    "detection": box_statistics,
    "captions": caption_statistics,
    "multiview": view_statistics,
    "pair_accuracy": pair_statistics,
    # the mean of its scores
    "cider": lambda name, rows: {},
    "pope": pope_statistics,
    "segmentation": mask_statistics,
}
