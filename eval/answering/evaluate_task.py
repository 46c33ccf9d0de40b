"""Evaluate a model on a task: generate, parse and score predictions, and keep them all."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import evaluate
from transformers import PreTrainedModel

from openpali.data.example import Example
from openpali.data.files import renamed
from openpali.data.tasks import Task
from openpali.eval.answering.confidence import answer_confidence
from openpali.eval.answering.predictions import Examples, PredictionStore, answer_examples
from openpali.eval.scoring.detection_reward import drop_duplicates

METRICS = Path(__file__).parents[1] / "metrics"


@dataclass
class TaskResult:
    """Scores and predictions of one task.

    Attributes:
        name: of the task.
        metrics: values by name, nan where one is undefined (of boxes without any true box); `examples` is the number
            of examples.
        predictions: rows of JSON values in the order of the dataset: `id`, `index` (in the dataset), `pictures`
            (number of images), `task`, `prefix`, `text` (answer), `prediction` (parsed for the metric), `reference`
            (likewise), `references` (strings), `boxes` (true ones) and `predicted_boxes` (both lists of
            `{"box": [x0, y0, x1, y1] in [0, 1], "label"}`, predicted ones perhaps with `mask` and `score`), `masks`
            (of the true boxes, where there are any), `score`; `tokens` where boxes have scores, `found` where the
            model writes boxes and masks in a format of its own, `groups` where the record has labels.
        metric_key: the task's main metric, by which checkpoints are selected.
        notes: text results of a metric, such as CIDEr's tokenizer.
        blank_metrics: the blind baseline: the same metrics with blank images, where it was measured.
        intervals: ends of the 95 % bootstrap confidence interval by metric (`openpali.eval.intervals`).
        groups: scores by group as JSON values, where they were asked for (`openpali.eval.groups`).
    """

    name: str
    metrics: dict[str, float]
    predictions: list[dict[str, Any]]
    metric_key: str = ""
    notes: dict[str, str] = field(default_factory=dict)
    blank_metrics: dict[str, float] | None = None
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    groups: dict[str, Any] | None = None

    @property
    def score(self) -> float:
        """Value of the main metric."""
        return self.metrics[self.metric_key]


def load_metric(name: str) -> evaluate.EvaluationModule:
    """Load the metric of that folder of eval/metrics; a metric of version 0.1 may have its old name.

    Raises:
        ValueError: there is no such metric; the message names those that there are.
    """
    name = renamed.current(name, renamed.METRICS)
    if not (METRICS / name / f"{name}.py").is_file():
        known = ", ".join(sorted(path.stem for path in METRICS.glob("*/*.py")))
        raise ValueError(f"there is no metric {name!r}; there are {known}")
    # in memory: concurrent runs would otherwise wait for each other's cache files
    return evaluate.load(str(METRICS / name), keep_in_memory=True)


def evaluate_task(
    model: PreTrainedModel,
    processor: Any,
    dataset: Examples | Sequence[Example],
    task: Task,
    *,
    batch_size: int = 32,
    limit: int | None = None,
    num_beams: int = 1,
    blank_images: bool = False,
    box_scores: bool = False,
    progress: bool = True,
    store: PredictionStore | None = None,
    max_length: int | None = None,
) -> TaskResult:
    """Predict and score the examples of a dataset.

    It may be called during training: the model's mode and the random states do not change.

    Args:
        model: any image-text-to-text model, on any device.
        processor: its processor.
        dataset: Examples of the task. A duplicate (in place of a bad or unsuitable record) counts once.
        task: parses answers and names the metric.
        batch_size: examples a batch.
        limit: number of examples; all when None.
        num_beams: 1 is greedy.
        blank_images: measure the blind baseline: mid-grey images of the same sizes instead.
        box_scores: give each predicted box its confidence as `score` (see `box_confidences`), by which the metric
            ranks boxes; rows then hold the tokens as well.
        progress: show a progress bar.
        store: receives predictions as they are made; those that it has are not generated again.
        max_length: tokens of a prompt, for openpali's processors; longer ones are cut, as in training.

    Returns:
        Metrics and one row per example.

    Raises:
        ValueError: there is no example.
    """
    rows = answer_examples(
        model,
        processor,
        dataset,
        task,
        batch_size=batch_size,
        limit=limit,
        num_beams=num_beams,
        blank_images=blank_images,
        box_scores=box_scores,
        progress=progress,
        store=store,
        max_length=max_length,
    )
    return score_predictions(task, rows)


def drop_duplicate_boxes(rows: list[dict[str, Any]], iou: float) -> int:
    """Leave boxes out of predictions that repeat a better one of the same label; see `drop_duplicates`.

    Args:
        rows: of `answer_examples`, which are changed.
        iou: overlap above which two boxes of a label are one.

    Returns:
        Number of boxes that are left out.
    """
    dropped = 0
    for row in rows:
        kept = drop_duplicates(row["predicted_boxes"], iou)
        repeated = {id(box) for box in row["predicted_boxes"]} - {id(box) for box in kept}
        dropped += len(repeated)
        row["predicted_boxes"] = kept
        if repeated:
            row["prediction"] = [one for one in row["prediction"] if id(one) not in repeated]
    return dropped


def score_predictions(task: Task, rows: list[dict[str, Any]]) -> TaskResult:
    """Compute the metric over all rows, and add each row's own score to it."""
    predictions, references = [row["prediction"] for row in rows], [row["reference"] for row in rows]
    metric = load_metric(task.metric)
    options = dict(getattr(task, "metric_options", {}))
    if getattr(metric, "by_confidence", False):
        options["confidences"] = [answer_confidence(row) for row in rows]
    result = metric.compute(predictions=predictions, references=references, return_scores=True, **options)
    assert result is not None
    for row, score in zip(rows, result.pop("scores"), strict=True):
        row["score"] = score
    notes = {key: value for key, value in result.items() if isinstance(value, str)}
    metrics = {key: float(value) for key, value in result.items() if key not in notes}
    return TaskResult(task.name, metrics | {"examples": float(len(rows))}, rows, task.metric_key, notes)
