"""Tables of predictions in the trackers of a run, one at each validation, always of the same examples."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from PIL import Image
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from openpali.data.mixture import TaskDataset
from openpali.eval.answering.evaluate_task import TaskResult
from openpali.eval.report.cards import cut
from openpali.eval.report.layers import reduced
from openpali.recipes.run.arguments import RunArguments

SAMPLES = 16  # examples of each dataset
SIDE = 256  # pixels of an image


class Validated(Protocol):
    """What is read of a `Validation`: its datasets and latest results, by name."""

    datasets: dict[str, TaskDataset]
    last: dict[str, TaskResult]


class SampleTables(TrainerCallback):
    """Writes a table of prompts, predictions, references and scores into each tracker after a validation."""

    def __init__(self, validation: Validated, run: RunArguments, tensorboard: Callable[[], Any]):
        """Prepare the tables.

        Args:
            validation: of the run.
            run: names the trackers.
            tensorboard: gives the writer of TensorBoard's events; None where there is none.
        """
        self.validation, self.run, self.tensorboard = validation, run, tensorboard
        self.images: dict[tuple[str, str], Image.Image | None] = {}

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the tables of the validation that has just ended."""
        if not state.is_world_process_zero:
            return
        writer = self.tensorboard()
        for name, result in self.validation.last.items():
            key, rows = f"predictions/{name}", list(sample_rows(result))
            if writer is not None:
                writer.add_text(key, markdown_table(rows), state.global_step)
            if "trackio" in self.run.trackers:
                log_trackio(key, rows, self.images_of(name, result))
            if "wandb" in self.run.trackers:
                log_wandb(key, rows, self.images_of(name, result), state.global_step)

    def images_of(self, name: str, result: TaskResult) -> list[Image.Image | None]:
        """The first image of each example of the table, small; None where an example has none."""
        for row in result.predictions[:SAMPLES]:
            if (name, row["id"]) not in self.images:
                images = self.validation.datasets[name][row["index"]].images
                self.images[name, row["id"]] = reduced(images[0], SIDE) if images else None
        return [self.images[name, row["id"]] for row in result.predictions[:SAMPLES]]


def sample_rows(result: TaskResult) -> Iterator[dict[str, Any]]:
    """The table's rows: the first examples of a dataset."""
    for row in result.predictions[:SAMPLES]:
        texts = {"id": row["id"], "prompt": row["prefix"], "prediction": row["text"]}
        texts["reference"] = " · ".join(map(str, row["references"]))
        yield {key: cut(text) for key, text in texts.items()} | {"score": float(row["score"])}


def markdown_table(rows: list[dict[str, Any]]) -> str:
    """The table for TensorBoard, which shows Markdown; an image is named by its example."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)] if rows else []
    return "\n".join("| " + " | ".join(map(markdown_cell, line)) + " |" for line in lines)


def markdown_cell(value: Any) -> str:
    """A value on one line, whose text is not read as Markdown or HTML."""
    if isinstance(value, float):
        return f"{value:.3f}"
    if set(value) == {"-"}:
        return value
    text = " ".join(value.split())
    return "".join(f"&#{ord(letter)};" if letter in "&<|*_`[]" else letter for letter in text)


def log_trackio(key: str, rows: list[dict[str, Any]], images: list[Image.Image | None]) -> None:
    """Write a table into trackio."""
    import trackio  # pyright: ignore[reportMissingImports]

    # rows by name are taken as well as lists, which alone its types know
    data: Any = [{"image": trackio.Image(image) if image else None} | row for row, image in zip(rows, images)]
    trackio.log({key: trackio.Table(data=data)})


def log_wandb(key: str, rows: list[dict[str, Any]], images: list[Image.Image | None], step: int) -> None:
    """Write a table into wandb."""
    import wandb

    columns: Mapping[str, Any] = rows[0] if rows else {}
    data: Any = [[wandb.Image(image) if image else None, *row.values()] for row, image in zip(rows, images)]
    table = wandb.Table(columns=["image", *columns], data=data)
    wandb.log({key: table, "train/global_step": step})
