"""The parts of a reward: the score of a task's own metric, matches and duplicates of boxes, and length."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from openpali.data.example import Example
from openpali.data.files.config import ConfigError, nearest
from openpali.data.streaming.stream import ExampleStream
from openpali.data.tasks import Task
from openpali.eval.answering.evaluate_task import load_metric
from openpali.eval.answering.predictions import json_value
from openpali.eval.scoring.boxes import fold_label
from openpali.eval.scoring.caption_frequencies import DocumentFrequencies
from openpali.eval.scoring.detection_reward import (
    DUPLICATE_WEIGHT,
    ClassWeights,
    class_weights,
    reached_ious,
    reward_parts,
)
from openpali.recipes.run.arguments import RunArguments

SCORE, LENGTH, MATCH, DUPLICATES = "score", "length", "match", "duplicates"
# parts that are subtracted
COSTS = (LENGTH, DUPLICATES)
BOXES, CAPTIONS = "detection", ("cider", "captions")


@dataclass
class RewardParts:
    """Scores answers of a task.

    Attributes:
        task: parses answers, and names its metric.
        weights: of the parts, those above 0.
        classes: weights of the labels of boxes.
        frequencies: of n-grams in the training set, by type of the references, for metrics of captions.
    """

    task: Task
    weights: dict[str, float]
    classes: ClassWeights = field(default_factory=lambda: ClassWeights({}))
    frequencies: dict[str, DocumentFrequencies] = field(default_factory=dict)

    def of(self, examples: Sequence[Example], texts: Sequence[str], lengths: Sequence[int]) -> dict[str, list[float]]:
        """Every part of each answer, and `reward`, their weighted sum.

        Args:
            examples: of the answers.
            texts: of the answers.
            lengths: of the answers in tokens.
        """
        predictions = [json_value(self.task.prediction(*pair)) for pair in zip(texts, examples, strict=True)]
        references = [json_value(self.task.reference(example)) for example in examples]
        found: dict[str, list[float]] = {}
        if SCORE in self.weights:
            found[SCORE] = self.scores(predictions, references)
        if MATCH in self.weights or DUPLICATES in self.weights:
            pairs = [(folded(boxes), folded(true)) for boxes, true in zip(predictions, references, strict=True)]
            both = [reward_parts(boxes, true, self.classes) for boxes, true in pairs]
            found |= {MATCH: [match for match, _ in both], DUPLICATES: [cost for _, cost in both]}
        if LENGTH in self.weights:
            found[LENGTH] = [float(length) for length in lengths]
        signed = {name: -weight if name in COSTS else weight for name, weight in self.weights.items()}
        total = [sum(signed[name] * found[name][i] for name in signed) for i in range(len(texts))]
        return {"reward": total} | found

    def scores(self, predictions: list[Any], references: list[Any]) -> list[float]:
        """The metric's own score of each answer; 0 where it is undefined."""
        if self.frequencies:
            return self.ciders(predictions, references)
        result: Any = load_metric(self.task.metric).compute(
            predictions=predictions, references=references, return_scores=True
        )
        return [0.0 if math.isnan(score) else float(score) for score in result["scores"]]

    def ciders(self, predictions: list[str], references: list[Any]) -> list[float]:
        """CIDEr x 100 with the frequencies of the training set, those of its type where references have one."""
        scores = [0.0] * len(predictions)
        for kind in {kind_of(reference) for reference in references}:
            rows = [i for i, reference in enumerate(references) if kind_of(reference) == kind]
            known = self.frequencies.get(kind) or next(iter(self.frequencies.values()))
            pairs = [predictions[i] for i in rows], [captions_of(references[i]) for i in rows]
            for i, score in zip(rows, known.ciders(*pairs), strict=True):
                scores[i] = score
        return scores

    def ious(self, example: Example, text: str) -> list[tuple[list[float], float]]:
        """Each box of an answer, x0, y0, x1, y1, and the IoU that it reaches, 0 below 0.5."""
        found = json_value(self.task.prediction(text, example))
        reached = reached_ious(folded(found), folded(json_value(self.task.reference(example))))
        return [(box["box"], float(iou)) for box, iou in zip(found, reached, strict=True)]


def folded(boxes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Boxes whose labels match as the metric's do."""
    return [{"box": box["box"], "label": fold_label(box["label"])} for box in boxes]


def kind_of(reference: Any) -> str:
    """The type of a reference, such as its language."""
    return (reference.get("type") or "") if isinstance(reference, dict) else ""


def captions_of(reference: Any) -> list[str]:
    """The captions of a reference."""
    given = reference["answers"] if isinstance(reference, dict) else reference
    return [given] if isinstance(given, str) else list(given)


def part_weights(task: Task, given: dict[str, Any]) -> dict[str, float]:
    """The weights of the parts of a task's reward.

    Args:
        task: with its metric.
        given: by the user; empty for matches and duplicates of boxes, or the score.

    Raises:
        ConfigError: the task has no metric, or a part is unknown, no number, or all are 0.
    """
    if not getattr(task, "metric", ""):
        raise ConfigError(f"the task {task.name!r} has no metric, so its answers have no reward: set task.metric")
    try:
        load_metric(task.metric)
    except ValueError as error:
        raise ConfigError(f"task.metric: {error}") from error
    boxes = task.metric == BOXES
    known = [SCORE, LENGTH, *((MATCH, DUPLICATES) if boxes else ())]
    weights = given or ({MATCH: 1.0, DUPLICATES: DUPLICATE_WEIGHT} if boxes else {SCORE: 1.0})
    for name, weight in weights.items():
        if name not in known:
            only = " (match and duplicates are of boxes)" if name in (MATCH, DUPLICATES) else ""
            raise ConfigError(
                f"components: unknown part {name!r}{nearest(name, dict.fromkeys(known))}; {', '.join(known)}{only}"
            )
        if isinstance(weight, bool) or not isinstance(weight, int | float) or weight < 0:
            raise ConfigError(f"components: {name}: {weight!r} is no weight of 0 or more; costs are subtracted anyway")
    found = {name: float(weight) for name, weight in weights.items() if weight}
    if not set(found) - set(COSTS):
        raise ConfigError("components: no part rewards an answer: give score or match a weight above 0")
    return found


def make_parts(task: Task, given: dict[str, Any], train: Any, most: int, run: RunArguments) -> RewardParts:
    """The parts of a task's reward, with what they need from the training set.

    Args:
        task: with its metric.
        given: weights of the parts, see `part_weights`.
        train: the training data.
        most: examples of it to read; 0 for all.
        run: prints what was counted.

    Raises:
        ConfigError: see `part_weights`; the training data is a stream that would be read as a whole.
    """
    weights = part_weights(task, given)
    if MATCH in weights or DUPLICATES in weights:
        labels = Counter(fold_label(box.label) for example in some_of(train, most) for box in example.boxes)
        rare = ", ".join(f"{name} {count}" for name, count in labels.most_common(4))
        run.say(f"Reward: {format_weights(weights)}; classes weigh by their boxes in the training set ({rare} …)")
        return RewardParts(task, weights, class_weights(labels))
    if SCORE in weights and task.metric in CAPTIONS:
        captions: dict[str, list[list[str]]] = {}
        for example in some_of(train, most):
            reference = task.reference(example)
            captions.setdefault(kind_of(reference), []).append(captions_of(reference))
        images = sum(map(len, captions.values()))
        run.say(f"Reward: {format_weights(weights)}; n-grams weigh by the captions of {images:,} training examples")
        counted = {kind: DocumentFrequencies.of(some) for kind, some in captions.items()}
        return RewardParts(task, weights, frequencies=counted)
    run.say(f"Reward: {format_weights(weights)}" + (f" ({SCORE}: {task.metric})" if SCORE in weights else ""))
    return RewardParts(task, weights)


def some_of(train: Any, most: int) -> Iterator[Example]:
    """Examples at equal distances, `most` at most.

    Raises:
        ConfigError: the data is a stream.
    """
    if isinstance(train, ExampleStream):
        raise ConfigError("reward: classes and captions are counted before the run, which a stream does not allow")
    count = min(most or len(train), len(train))
    return (train[i * len(train) // count] for i in range(count))


def format_weights(weights: dict[str, float]) -> str:
    """The weighted sum in words."""
    terms = [f"{'-' if name in COSTS else '+'} {weight:g} {name}" for name, weight in weights.items()]
    return " ".join(terms).removeprefix("+ ")
