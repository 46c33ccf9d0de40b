"""Pairs of questions and views of objects are drawn as a whole."""

import math

import numpy as np
import pytest

from openpali.eval.answering.evaluate_task import TaskResult, load_metric
from openpali.eval.intervals.bootstrap import full_sample, intervals
from openpali.eval.intervals.by_metric import add_intervals, statistics

RNG = np.random.default_rng(3)


def result_of(metric, predictions, references, **options):
    found = load_metric(metric).compute(predictions=predictions, references=references, return_scores=True, **options)
    rows = [
        {"id": str(i), "prediction": text, "reference": reference, "score": score}
        for i, (text, reference, score) in enumerate(zip(predictions, references, found.pop("scores"), strict=True))
    ]
    numbers = {key: float(value) for key, value in found.items() if not isinstance(value, str)}
    return TaskResult("task", numbers | {"examples": float(len(rows))}, rows, next(iter(numbers)))


def pairs(count):
    references = [{"answers": ["ab"[i % 2]], "type": str(i // 2)} for i in range(2 * count)]
    return [str(RNG.choice(["a", "b"])) for _ in references], references


def test_statistics_are_the_metrics_of_all_examples():
    result = result_of("pair_accuracy", *pairs(25))
    found = statistics("pair_accuracy", result)
    assert set(found) == {"pair_accuracy", "accuracy"}
    for key, statistic in found.items():
        assert full_sample(statistic, 50) == pytest.approx(result.metrics[key])


def test_a_question_without_its_partner_counts_in_accuracy_alone():
    predictions, references = pairs(10)
    result = result_of("pair_accuracy", predictions[:-1], references[:-1])
    add_intervals(result, "pair_accuracy")
    assert set(result.intervals) == {"pair_accuracy", "accuracy"}


def test_the_interval_is_as_wide_as_that_of_as_many_single_questions():
    result = result_of("pair_accuracy", *pairs(400))
    rate = result.metrics["pair_accuracy"]
    low, high = intervals(statistics("pair_accuracy", result), 800)["pair_accuracy"]
    expected = 2 * 1.96 * (rate * (1 - rate) / 400) ** 0.5
    # 1,000 draws, and the number of drawn pairs varies
    assert high - low == pytest.approx(expected, rel=0.15)


def test_views_of_an_object_are_drawn_together():
    references = [{"answers": ["dog"], "type": str(i // 4)} for i in range(40)]
    predictions = [str(RNG.choice(["dog", "cat"])) for _ in references]
    sure = list(RNG.random(40))
    result = result_of("multiview", predictions, references, confidences=sure)
    for row, confidence in zip(result.predictions, sure, strict=True):
        row["tokens"] = [["a", math.log(confidence) / 2], ["b", math.log(confidence) / 2]]
    found = statistics("multiview", result)
    assert set(found) == {"accuracy", "view_accuracy"}
    weights = np.zeros((1, 40))
    weights[0, 4:8] = 3
    own = result_of("multiview", predictions[4:8], references[4:8], confidences=sure[4:8])
    for key, statistic in found.items():
        assert statistic(weights)[0] == pytest.approx(own.metrics[key])
