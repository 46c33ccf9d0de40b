"""Scores by group as JSON values, for metrics.json, the report and the command line."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from openpali.eval.answering.evaluate_task import TaskResult
from openpali.eval.groups.attributes import Attribute, read_attributes
from openpali.eval.groups.scores import FEW, AttributeScores, score_groups
from openpali.eval.groups.toxicity import THRESHOLD, toxic_probabilities
from openpali.eval.intervals.bootstrap import Statistic, full_sample, ratio
from openpali.eval.intervals.by_metric import statistics
from openpali.eval.report.json_numbers import json_numbers
from openpali.eval.report.values import format_interval, format_metric_name, format_points

TOXIC = "toxic_answers"
NO_CLASSIFIER = "Toxicity was not measured: --toxicity takes a text classifier, such as unitary/toxic-bert."


@dataclass(frozen=True)
class Classifier:
    """A text classifier: its folder or Hub name, the label that counts, and its device."""

    name: str
    label: str = "toxic"
    device: str | None = None


def add_groups(result: TaskResult, metric: str, names: Sequence[str], classifier: Classifier | None = None) -> None:
    """Add scores by group to a result.

    Args:
        result: of a task; its rows have `groups`, and scores.
        metric: folder of the metric.
        names: of attributes, see `read_attributes`.
        classifier: of toxicity; None to leave it out.

    Raises:
        ValueError: no example has such a label, the metric's main score is not one of examples, or the classifier
            has no such label.
        OSError: there is no such classifier.
    """
    attributes = read_attributes(result.predictions, names)
    known = statistics(metric, result)
    if result.metric_key not in known:
        raise ValueError(f"--groups: {result.metric_key} of {metric} cannot be computed for a part of the examples")
    measures = [measure(result.metric_key, known[result.metric_key], attributes, len(result.predictions))]
    notes = [] if classifier else [NO_CLASSIFIER]
    if classifier:
        texts = [row["text"] for row in result.predictions]
        found = toxic_probabilities(classifier.name, classifier.label, texts, classifier.device)
        for row, probability in zip(result.predictions, found, strict=True):
            row["toxicity"] = round(probability, 4)
        shares = ratio([float(one >= THRESHOLD) for one in found], np.ones(len(found)))
        measures.append(measure(TOXIC, shares, attributes, len(found)))
        notes.append(
            f"Toxic answers: the share with a probability of {THRESHOLD} or more of the label {classifier.label!r} of"
            f" {classifier.name}."
        )
    result.groups = {"measures": measures, "notes": notes, "fewest_examples_of_a_gap": FEW}


def measure(key: str, statistic: Statistic, attributes: Sequence[Attribute], examples: int) -> dict[str, Any]:
    """A measure of all examples, and of every group."""
    scores = [score_groups(statistic, attribute, examples) for attribute in attributes]
    return {"key": key, "value": full_sample(statistic, examples), "attributes": [as_dict(one) for one in scores]}


def as_dict(scores: AttributeScores) -> dict[str, Any]:
    """Scores of an attribute as JSON values; null where one is undefined."""
    groups = [json_numbers({"value": one.value}) | {"examples": one.examples} for one in scores.groups]
    for group, one in zip(groups, scores.groups, strict=True):
        group |= {"name": one.name, "interval": None if math.isnan(sum(one.interval)) else list(one.interval)}
    gap = scores.gap and vars(scores.gap) | {"interval": list(scores.gap.interval)}
    summary = json_numbers({"value": scores.value, "median": scores.median})
    return (
        {"name": scores.name, "groups": groups, "gap": gap}
        | summary
        | {
            "without_label": scores.missing,
            "few_examples": scores.few,
        }
    )


def group_lines(groups: dict[str, Any]) -> list[str]:
    """The largest gaps on a line each, and the notes."""
    lines = []
    for one in groups["measures"]:
        key = one["key"]
        for attribute in one["attributes"]:
            gap, start = attribute["gap"], f"{attribute['name']}, {format_metric_name(key)}"
            if gap is None:
                lines.append(f"{start}: no gap, fewer than two groups have {FEW} examples or more")
                continue
            between = f"between {gap['highest']} and {gap['lowest']} ({gap['examples']} examples)"
            ends = format_interval(gap["interval"], key).replace(" %", " points")
            lines.append(
                f"{start}: largest gap {format_points(gap['value'], key)} ({ends}) {between}, p {gap['p']:.3f}"
            )
    return lines + groups["notes"]
