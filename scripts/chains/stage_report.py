"""One report on the checkpoints of a chain of stages, evaluated on scenes that no stage was trained on."""

import json
from collections.abc import Sequence
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
from openpali.modeling.shipped import SHIPPED
from openpali.recipes.training.progress import read_log

SCENES: dict[str, Any] = {"name": "emoji", "size": 64, "concepts": 32}


def cache_drawings() -> None:
    """Rasterise every drawing once; later runs read the cache."""
    scenes = load_source(SCENES | {"split": "test", "length": 500})
    for index in range(len(scenes)):
        scenes[index]


@dataclass(frozen=True)
class ReportRow:
    """A row of the report: a checkpoint on a task.

    Attributes:
        title: of the row.
        checkpoint: folder of the stage within that of the chain, or the name of a shipped checkpoint.
        task: name and options.
        scenes: options of the built-in images.
    """

    title: str
    checkpoint: str
    task: dict[str, Any]
    scenes: dict[str, Any]


def report_stages(
    folder: Path,
    rows: Sequence[ReportRow],
    stages: Sequence[str],
    scenes: int,
    title: str,
    settings: dict[str, str | int],
) -> dict[str, Any]:
    """Evaluate checkpoints on test scenes, beside the blind baseline; write report.html and metrics.json.

    Args:
        folder: of the chain; each stage has a folder with its checkpoint and log below it.
        rows: of the report.
        stages: whose losses the report plots.
        scenes: number of test scenes for each row.
        title: of the report.
        settings: shown at the head of the report.

    Returns:
        The content of metrics.json: `metrics` and `blank_images` by the title of a row.
    """
    results, images, loaded = [], {}, ("", None, None)
    for row in rows:
        if loaded[0] != row.checkpoint:
            name = row.checkpoint if row.checkpoint in SHIPPED else str(folder / row.checkpoint)
            loaded = (row.checkpoint, *load_model(name))
        source = load_source(SCENES | row.scenes | {"split": "test", "length": scenes})
        result, drawn = evaluate_with_baseline(*loaded[1:], TaskDataset(source, load_task(row.task)), row.title)
        results.append(result)
        images |= drawn
        print(format_scores(result), flush=True)
    logs = [{**entry, "stage": stage} for stage in stages for entry in read_log(folder / stage / "logs.jsonl")]
    path = write_report(folder / "report.html", title, results, images, logs, CREDITS, settings=settings)
    summary = {result.name: {"metrics": result.metrics, "blank_images": result.blank_metrics} for result in results}
    (folder / "metrics.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(f"Report: {path}")
    return summary


def evaluate_with_baseline(
    model: Any, processor: Any, dataset: TaskDataset, title: str
) -> tuple[TaskResult, dict[str, Any]]:
    """Scores of a model and of its blind baseline (the same model with blank images), and the report's images."""
    result = evaluate_task(model, processor, dataset, dataset.task)
    blank = evaluate_task(model, processor, dataset, dataset.task, blank_images=True)
    result.name, result.blank_metrics = title, blank.metrics
    # one image may be in several galleries, with other boxes
    for row in result.predictions:
        row["id"] = f"{title}: {row['id']}"
    return result, gallery_images(result, dataset)


def format_scores(result: TaskResult) -> str:
    """Every score, with the blind baseline's."""
    blank = result.blank_metrics or {}
    scores = [f"{key} {value:.3f} (blank {blank[key]:.3f})" for key, value in result.metrics.items()]
    return f"{result.name}: {', '.join(score for score in scores if not score.startswith('examples'))}"
