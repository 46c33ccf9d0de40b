"""Measure a model on a task: answer, parse, score, and keep every prediction."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import evaluate
from tqdm import tqdm
from transformers import PreTrainedModel

from openpali.data.example import Box, Example
from openpali.data.tasks import Task
from openpali.eval.box_scores import score_boxes
from openpali.eval.decoding import Answer, answers

METRICS = Path(__file__).parent / "metrics"
WINDOW = 8  # batches of which prompts are sorted by length; bounds how many pictures are held at once


class Examples(Protocol):
    """A map-style dataset of Examples, such as `TaskDataset`, or a list of them."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example: ...


class PredictionStore(Protocol):
    """Where predictions go as they come, and where an interrupted run finds those that it has already."""

    @property
    def done(self) -> Mapping[str, Answer]:
        """Answers by example id."""
        ...

    def write(self, row: dict[str, Any]) -> None:
        """Keep a row; its score is not known yet."""
        ...


@dataclass
class TaskResult:
    """Scores and predictions of one task.

    Attributes:
        name: of the task.
        metrics: values by name; `metric_key` is the one to select checkpoints by, `examples` their number.
        predictions: rows of JSON values in the order of the dataset: `id`, `index` (in the dataset), `pictures`
            (how many), `task`, `prefix`, `text` (the answer), `prediction` (parsed for the metric), `reference`
            (likewise), `references` (strings), `boxes` (true ones) and `predicted_boxes` (both lists of
            `{"box": [x0, y0, x1, y1] in [0, 1], "label"}`, predicted ones perhaps with `mask` and `score`), `masks`
            (of the true boxes, where there are any), `score`; `tokens` where boxes have scores.
        metric_key: the task's chief metric.
        notes: what a metric says in words, such as the tokeniser of CIDEr.
        blank_metrics: the same metrics with blank images, where somebody measured them.
    """

    name: str
    metrics: dict[str, float]
    predictions: list[dict[str, Any]]
    metric_key: str = ""
    notes: dict[str, str] = field(default_factory=dict)
    blank_metrics: dict[str, float] | None = None

    @property
    def score(self) -> float:
        """Value of the chief metric."""
        return self.metrics[self.metric_key]


def load_metric(name: str) -> evaluate.EvaluationModule:
    """The metric of that folder under eval/metrics.

    Raises:
        ValueError: naming the metrics that there are.
    """
    if not (METRICS / name).is_dir():
        known = ", ".join(sorted(path.name for path in METRICS.iterdir() if path.is_dir()))
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
) -> TaskResult:
    """Answer and score the examples of a dataset.

    It may be called in the middle of training: the model's mode and the random states are left as they were.

    Args:
        model: any image-text-to-text model, on any device.
        processor: its processor.
        dataset: Examples of the task. One that comes again (in place of a bad or unsuitable record) counts once.
        task: parses answers and names the metric.
        batch_size: examples a batch.
        limit: number of examples; all when None.
        num_beams: 1 is greedy.
        blank_images: measure with mid-grey pictures instead.
        box_scores: give predicted boxes a `score` from the probabilities of their tokens (see `score_boxes`), by
            which the metric can rank them; rows then hold the tokens as well.
        progress: show a progress bar.
        store: predictions are written to it as they come, and those that it has are not made again.

    Returns:
        Metrics and one row per example.

    Raises:
        ValueError: if there is no example.
    """
    done = dict(store.done) if store else {}
    options = (batch_size, task.max_new_tokens, num_beams, blank_images, box_scores)
    total = len(dataset) if limit is None else min(limit, len(dataset))
    rows = []
    with tqdm(total=total, desc=task.name, unit="ex", disable=not progress) as bar:
        for window in windows(dataset, limit, WINDOW * batch_size):
            known = [(index, example) for index, example in window if example.id in done]
            rows.extend(prediction_row(index, example, task, done[example.id]) for index, example in known)
            bar.update(len(known))
            missing = [(index, example) for index, example in window if example.id not in done]
            for i, answer in answers(model, processor, [example for _, example in missing], *options):
                rows.append(prediction_row(*missing[i], task, answer))
                if store:
                    store.write(rows[-1])
                bar.update()
    if not rows:
        raise ValueError(f"nothing to evaluate on the task {task.name}: the dataset or the limit is empty")
    return scored(task, sorted(rows, key=lambda row: row["index"]))


def windows(
    dataset: Examples | Sequence[Example], limit: int | None, size: int
) -> Iterator[list[tuple[int, Example]]]:
    """Lists of up to `size` pairs of index and Example, every id once, `limit` in all."""
    seen: set[str] = set()
    window = []
    for index in range(len(dataset)):
        if limit is not None and len(seen) >= limit:
            break
        example = dataset[index]
        if example.id in seen:
            continue
        seen.add(example.id)
        window.append((index, example))
        if len(window) == size:
            yield window
            window = []
    if window:
        yield window


def prediction_row(index: int, example: Example, task: Task, answer: Answer) -> dict[str, Any]:
    """The line of predictions.jsonl of one example, still without its score."""
    prediction = json_value(task.prediction(answer.text, example))
    found = prediction if isinstance(prediction, list) else []
    found = [box for box in found if isinstance(box, dict) and "box" in box]
    if answer.tokens is not None:
        for box, score in zip(found, score_boxes(answer.tokens, found)):
            box["score"] = score
    row = {
        "id": example.id,
        "index": index,
        "pictures": len(example.images),
        "task": task.name,
        "prefix": example.prefix,
        "text": answer.text,
        "prediction": prediction,
        "reference": json_value(task.reference(example)),
        "references": list(example.references or (example.suffix,)),
        "boxes": json_value(example.boxes),
        "masks": json_value(example.masks),
        "predicted_boxes": found,
    }
    return row if answer.tokens is None else row | {"tokens": json_value(answer.tokens)}


def json_value(value: Any) -> Any:
    """A copy with boxes as `{"box": [x0, y0, x1, y1], "label"}`, as files and metrics want them."""
    if isinstance(value, Box):
        return {"box": [float(x) for x in (value.x0, value.y0, value.x1, value.y1)], "label": value.label}
    if isinstance(value, dict):
        return {key: json_value(item) for key, item in value.items()}
    return [json_value(item) for item in value] if isinstance(value, (list, tuple)) else value


def scored(task: Task, rows: list[dict[str, Any]]) -> TaskResult:
    """Compute the metric over all rows, and give each its own score."""
    predictions, references = [row["prediction"] for row in rows], [row["reference"] for row in rows]
    metric = load_metric(task.metric)
    result = metric.compute(predictions=predictions, references=references, return_scores=True)
    assert result is not None
    for row, score in zip(rows, result.pop("scores"), strict=True):
        row["score"] = score
    notes = {key: value for key, value in result.items() if isinstance(value, str)}
    metrics = {key: float(value) for key, value in result.items() if key not in notes}
    return TaskResult(task.name, metrics | {"examples": float(len(rows))}, rows, task.metric_key, notes)
