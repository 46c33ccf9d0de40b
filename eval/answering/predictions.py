"""Predictions of a model for the examples of a task, by one process or several: a row of predictions.jsonl each."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from tqdm import tqdm
from transformers import PreTrainedModel

from openpali.data.example import Box, Example
from openpali.data.tasks import Task
from openpali.eval.answering.confidence import box_confidences
from openpali.eval.answering.decoding import Answer, generate_answers
from openpali.eval.answering.image_features import image_features
from openpali.eval.answering.processes import ALONE, Processes

WINDOW = 8  # batches whose prompts are sorted by length together; bounds the images in memory


class Examples(Protocol):
    """A map-style dataset of Examples, such as `TaskDataset`, or a list of them."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example: ...


class PredictionStore(Protocol):
    """Storage of predictions as they are made, from which an interrupted run resumes."""

    @property
    def done(self) -> Mapping[str, Answer]:
        """Answers by example id."""
        ...

    def write(self, row: dict[str, Any]) -> None:
        """Store a row, still without its score."""
        ...


def answer_examples(
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
    processes: Processes = ALONE,
) -> list[dict[str, Any]]:
    """Predict the rows of `evaluate_task`, without scores, in the order of the dataset.

    Several processes take windows of eight batches in turn, in the same batches as a single process, and each returns
    all rows. Batches differ only where bad records are replaced by the next good one.

    Raises:
        ValueError: there is no example.
    """
    done = dict(store.done) if store else {}
    options = (batch_size, task.max_new_tokens, num_beams, blank_images, box_scores, max_length)
    # kept for all windows
    features = image_features(model, processor, batch_size)
    total = len(dataset) if limit is None else min(limit, len(dataset))
    with tqdm(total=-(-total // processes.count), desc=task.name, unit="ex", disable=not progress) as bar:

        def predict_windows(parts: Iterable[list[tuple[int, Example]]]) -> Iterator[dict[str, Any]]:
            for window in parts:
                missing = [(index, example) for index, example in window if example.id not in done]
                for index, example in window:
                    if example.id in done:
                        yield prediction_row(index, example, task, done[example.id])
                        bar.update()
                examples = [example for _, example in missing]
                for i, answer in generate_answers(model, processor, examples, *options, features):
                    row = prediction_row(*missing[i], task, answer)
                    if store:
                        store.write(row)
                    yield row
                    bar.update()

        if processes.count == 1:
            rows = list(predict_windows(windows(dataset, limit, WINDOW * batch_size)))
        else:
            rows = gather_predictions(predict_windows, dataset, limit, WINDOW * batch_size, processes)
    if not rows:
        raise ValueError(f"nothing to evaluate on the task {task.name}: the dataset or the limit is empty")
    return sorted(rows, key=lambda row: row["index"])


def gather_predictions(
    predict_windows: Callable[[Iterable[list[tuple[int, Example]]]], Iterable[dict[str, Any]]],
    dataset: Examples | Sequence[Example],
    limit: int | None,
    size: int,
    processes: Processes,
) -> list[dict[str, Any]]:
    """Rows of all processes, each id once with its first index, `limit` in all.

    A duplicate id is noticed only after it is read, perhaps by another process; so further rounds read more examples
    until the limit is reached.
    """
    rows: dict[str, dict[str, Any]] = {}
    start, wanted = 0, len(dataset) if limit is None else limit
    while start < len(dataset) and len(rows) < wanted:
        stop = min(start + wanted - len(rows), len(dataset))
        starts = range(start + processes.index * size, stop, processes.count * size)
        mine = ([(i, dataset[i]) for i in range(at, min(at + size, stop))] for at in starts)
        new = processes.gather(list(predict_windows(without_duplicates(window) for window in mine)))
        for row in sorted(new, key=lambda row: row["index"]):
            rows.setdefault(row["id"], row)
        start = stop
    return list(rows.values())


def without_duplicates(window: Iterable[tuple[int, Example]]) -> list[tuple[int, Example]]:
    """Pairs of index and Example, the first of each id."""
    kept: dict[str, tuple[int, Example]] = {}
    for index, example in window:
        kept.setdefault(example.id, (index, example))
    return list(kept.values())


def windows(
    dataset: Examples | Sequence[Example], limit: int | None, size: int
) -> Iterator[list[tuple[int, Example]]]:
    """Lists of up to `size` pairs of index and Example, each id once, `limit` in all."""
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
    """The row of predictions.jsonl of one example, without its score."""
    prediction = json_value(task.prediction(answer.text, example))
    if answer.found is not None and isinstance(prediction, list):
        # copies, since confidences are added below
        prediction = [dict(one) for one in answer.found]
    boxes = prediction if isinstance(prediction, list) else []
    boxes = [box for box in boxes if isinstance(box, dict) and "box" in box]
    if answer.tokens is not None:
        for box, confidence in zip(boxes, box_confidences(answer.tokens, boxes)):
            box["score"] = confidence
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
        "predicted_boxes": boxes,
    }
    row |= {} if answer.tokens is None else {"tokens": json_value(answer.tokens)}
    row |= {"groups": example.meta["groups"]} if "groups" in example.meta else {}
    return row | ({} if answer.found is None else {"found": answer.found})


def json_value(value: Any) -> Any:
    """A copy in JSON values, with boxes as `{"box": [x0, y0, x1, y1], "label"}`, the format of files and metrics."""
    if isinstance(value, Box):
        return {"box": [float(x) for x in (value.x0, value.y0, value.x1, value.y1)], "label": value.label}
    if isinstance(value, dict):
        return {key: json_value(item) for key, item in value.items()}
    return [json_value(item) for item in value] if isinstance(value, (list, tuple)) else value
