"""The best weights of a run: those of the best validation score; ties go to the lower loss, then to the later."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openpali.data.files.config import ConfigError
from openpali.recipes.run.run_folder import BEST_FILE, BEST_FOLDER, LOG_FILE
from openpali.recipes.training.progress import read_log


def read_best(folder: Path) -> dict[str, Any] | None:
    """Step, score and validation loss of the best weights so far; None without any."""
    path = folder / BEST_FOLDER / BEST_FILE
    return json.loads(path.read_text()) if path.exists() else None


def best_row(step: int, metric: str, metrics: Mapping[str, float]) -> dict[str, Any]:
    """The content of `best.json`; null where a number is undefined or not known.

    Args:
        step: of the weights.
        metric: that picks the best weights.
        metrics: of the evaluation, as `eval_accuracy`.

    Raises:
        ConfigError: the evaluation does not give the metric of the run.
    """
    known = [key.removeprefix("eval_") for key in metrics if key.startswith("eval_") and "loss" not in key]
    if f"eval_{metric}" not in metrics:
        raise ConfigError(f"best_metric: {metric} is not measured on this data; give one of {', '.join(known)}")
    value, loss = (none_if_nan(metrics.get(f"eval_{key}")) for key in (metric, "loss"))
    return {"step": step, "metric": metric, "value": value, "loss": loss}


def none_if_nan(value: float | None) -> float | None:
    """The number; None for nan."""
    return None if value is None or math.isnan(value) else value


def rank(row: Mapping[str, Any]) -> tuple[float, float]:
    """Sort key: the score (undefined is lowest), then the negative validation loss."""
    value, loss = row["value"], row.get("loss")
    return -math.inf if value is None else value, -math.inf if loss is None else -loss


def replaces_best(row: Mapping[str, Any], best: Mapping[str, Any] | None) -> bool:
    """Whether weights replace the best ones, which are earlier."""
    return best is None or rank(row) >= rank(best)


def describe_best(folder: Path) -> str:
    """A sentence about the best weights, or a warning where all evaluations gave the same score."""
    best = read_best(folder)
    assert best is not None
    key = f"eval_{best['metric']}"
    values = [row[key] for row in read_log(folder / LOG_FILE) if key in row]
    shown = "undefined" if best["value"] is None else f"{best['value']:.4g}"
    if len(values) < 2 or any(value != values[0] for value in values):
        return f"Best {best['metric']} {shown}, at step {best['step']}: these weights are kept."
    kept = f"those of step {best['step']} are kept"
    if best.get("loss") is not None:
        kept += f", whose validation loss of {best['loss']:.4g} is the lowest"
    return (
        f"Warning: {best['metric']} was {shown} at all {len(values)} evaluations and does not rank the weights:"
        f" {kept}. Look at the answers, and give more validation records, or another metric."
    )
