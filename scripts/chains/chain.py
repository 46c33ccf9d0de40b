"""What the small chains of stages share: a clock, scenes that no stage has seen, and one report of every stage."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openpali.data.mixture import TaskDataset
from openpali.data.sources import load_source
from openpali.data.sources.builtin.drawings import CREDITS
from openpali.data.tasks import load_task
from openpali.eval.answering.evaluate_task import TaskResult, evaluate_task
from openpali.eval.answering.load_model import load_model
from openpali.eval.report.page import gallery_images, write_report
from openpali.recipes.training.progress import read_log

SCENES: dict[str, Any] = {"name": "emoji", "size": 64, "concepts": 32}


@dataclass
class Clock:
    """Says which step begins and about how long is left.

    Attributes:
        plan: seconds of each step as measured on two cores, by title.
    """

    plan: dict[str, float]
    pace: float = 1.0

    def run(self, title: str, step: Callable[[], object]) -> None:
        """Do a step; what it took against the plan corrects the time that is left."""
        titles = list(self.plan)
        left = self.pace * sum(self.plan[later] for later in titles[titles.index(title) :])
        print(f"\n[{titles.index(title) + 1}/{len(titles)}] {title}: about {minutes(left)} left in all", flush=True)
        begin = time.perf_counter()
        step()
        seconds = time.perf_counter() - begin
        # a step that a former run had finished says nothing of the pace
        if seconds > 0.3 * self.plan[title]:
            self.pace = seconds / self.plan[title]
        print(f"[{title}] took {minutes(seconds)}", flush=True)


def minutes(seconds: float) -> str:
    """Such as 2:05 minutes."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d} minutes"


def draw_scenes() -> None:
    """Rasterise every drawing once; it is kept for later runs."""
    scenes = load_source(SCENES | {"split": "test", "length": 500})
    for index in range(len(scenes)):
        scenes[index]


@dataclass(frozen=True)
class Row:
    """One line of a report: a checkpoint on a task.

    Attributes:
        title: of the line.
        checkpoint: folder of the stage within that of the chain.
        task: name and options.
        scenes: options of the built-in images.
    """

    title: str
    checkpoint: str
    task: dict[str, Any]
    scenes: dict[str, Any]


def measure(
    folder: Path, rows: Sequence[Row], stages: Sequence[str], scenes: int, title: str, settings: dict[str, str | int]
) -> dict[str, Any]:
    """Score checkpoints on held-out scenes, with images and with blank ones; write the report and metrics.json.

    Args:
        folder: of the chain; a stage's checkpoint and log are in a folder of its own below it.
        rows: what to measure.
        stages: whose losses the report shows.
        scenes: how many are held out for each row.
        title: of the report.
        settings: what the head of the report says.

    Returns:
        What metrics.json holds: `metrics` and `blank_images` by the title of a row.
    """
    results, images, loaded = [], {}, ("", None, None)
    for row in rows:
        if loaded[0] != row.checkpoint:
            loaded = (row.checkpoint, *load_model(str(folder / row.checkpoint)))
        source = load_source(SCENES | row.scenes | {"split": "test", "length": scenes})
        result, shown = score(*loaded[1:], TaskDataset(source, load_task(row.task)), row.title)
        results.append(result)
        images |= shown
        print(line(result), flush=True)
    logs = [{**entry, "stage": stage} for stage in stages for entry in read_log(folder / stage / "logs.jsonl")]
    path = write_report(folder / "report.html", title, results, images, logs, CREDITS, settings=settings)
    summary = {result.name: {"metrics": result.metrics, "blank_images": result.blank_metrics} for result in results}
    (folder / "metrics.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(f"Report: {path}")
    return summary


def score(model: Any, processor: Any, dataset: TaskDataset, title: str) -> tuple[TaskResult, dict[str, Any]]:
    """Answers and scores with the images and with blank ones, and the images that the report shows."""
    result = evaluate_task(model, processor, dataset, dataset.task)
    blank = evaluate_task(model, processor, dataset, dataset.task, blank_images=True)
    result.name, result.blank_metrics = title, blank.metrics
    # one image may be in several galleries, with other boxes
    for row in result.predictions:
        row["id"] = f"{title}: {row['id']}"
    return result, gallery_images(result, dataset)


def line(result: TaskResult) -> str:
    """Every score with the image and without."""
    blank = result.blank_metrics or {}
    shown = [f"{key} {value:.3f} (blank {blank[key]:.3f})" for key, value in result.metrics.items()]
    return f"{result.name}: {', '.join(cell for cell in shown if not cell.startswith('examples'))}"
