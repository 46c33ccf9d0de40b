"""Comparison of several models on the same examples: scores, differences, and their predictions side by side."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from openpali.eval.answering.evaluate_task import TaskResult
from openpali.eval.answering.predictions import Examples
from openpali.eval.intervals.bootstrap import LEVEL, RESAMPLES, SEED, Difference
from openpali.eval.intervals.by_metric import compare_results
from openpali.eval.report.drawing import draw_comparison
from openpali.eval.report.json_numbers import json_numbers
from openpali.eval.report.page import LONGEST, card_kind, data_uri, format_value, true_objects, write_page

# by name of the model
Results = Mapping[str, TaskResult]
Differences = Mapping[str, Mapping[str, Difference]]


def compare_models(results: Results, metric: str) -> dict[str, dict[str, Difference]]:
    """Differences of every other model from the first one, by name of model and of metric.

    Args:
        results: of one task on the same examples, by name of the model.
        metric: folder of the metric.

    Raises:
        ValueError: the results are of different examples.
    """
    first, *others = results
    return {name: compare_results(metric, results[first], results[name]) for name in others}


def save_comparison(
    path: Path, results: Results, differences: Differences, metric: str, models: Mapping[str, str]
) -> None:
    """Write comparison.json: scores, intervals and differences; `models` has the full name of each model."""
    first = next(iter(results))
    content = {
        "task": results[first].name,
        "metric": metric,
        "metric_key": results[first].metric_key,
        "models": {
            name: {
                "model": models[name],
                "metrics": json_numbers(result.metrics),
                "intervals": result.intervals,
                "blank_metrics": result.blank_metrics and json_numbers(result.blank_metrics),
            }
            for name, result in results.items()
        },
        "compared_with": first,
        "differences": {name: {key: asdict(one) for key, one in found.items()} for name, found in differences.items()},
        "bootstrap": {"level": LEVEL, "resamples": RESAMPLES, "seed": SEED},
    }
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def select_examples(results: Results, differ: int = 12, worst: int = 6, best: int = 3) -> dict[str, list[int]]:
    """Indices of rows by heading: the largest differences in score, then the lowest and highest mean scores."""
    scores = np.array([[row["score"] for row in result.predictions] for result in results.values()])
    spread, mean = scores.max(axis=0) - scores.min(axis=0), scores.mean(axis=0)
    order = np.argsort(-spread, kind="stable")
    largest = [int(i) for i in order[:differ] if spread[i] > 0]
    rest = [int(i) for i in np.argsort(mean, kind="stable") if int(i) not in set(largest)]
    low, high = rest[:worst], rest[worst:][::-1][:best]
    groups = {"Largest differences": largest, "Lowest scores": low, "Highest scores": high}
    return {heading: rows for heading, rows in groups.items() if rows}


def comparison_images(results: Results, dataset: Examples | Sequence[Any]) -> dict[str, Image.Image]:
    """The first image of each example on the page, by id."""
    rows = next(iter(results.values())).predictions
    chosen = [rows[i] for group in select_examples(results).values() for i in group]
    found = {row["id"]: dataset[row["index"]].images for row in chosen}
    return {key: images[0] for key, images in found.items() if images}


def write_comparison(
    path: str | Path,
    title: str,
    results: Results,
    differences: Differences,
    images: Mapping[str, Image.Image],
    credits: str = "",
    *,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Write scores, differences, and every model's predictions of the same images, into one HTML file.

    Args:
        path: file to write.
        title: heading of the page.
        results: by name of the model; the others are compared with the first.
        differences: from `compare_models`.
        images: by example id, from `comparison_images`.
        credits: for the footer of the page.
        settings: models, source and others, by name, for the head of the page.

    Returns:
        The path written.
    """
    groups = select_examples(results)
    return write_page(
        path,
        "report/compare.html.j2",
        title=title,
        results=results,
        first=next(iter(results)),
        differences=differences,
        groups={heading: [comparison_card(results, i, images) for i in rows] for heading, rows in groups.items()},
        credits=credits,
        settings=settings or {},
    )


def comparison_card(results: Results, index: int, images: Mapping[str, Image.Image]) -> dict[str, Any]:
    """Values of one example for the template: the prompt, and each model's answer.

    Where any model predicted boxes or masks, each model has an image of its own.
    """
    rows = {name: result.predictions[index] for name, result in results.items()}
    row = next(iter(rows.values()))
    image, boxes = images.get(row["id"]), any(one["predicted_boxes"] for one in rows.values())
    true = true_objects(row)
    answers = []
    for name, one in rows.items():
        drawn = draw_comparison(image, true, one["predicted_boxes"], longest=LONGEST) if image and boxes else None
        answers.append(
            {
                "model": name,
                "text": one["text"],
                "mark": format_value(one["score"], results[name].metric_key),
                "kind": card_kind(one["score"]),
                "image": data_uri(drawn) if drawn else None,
            }
        )
    alone = draw_comparison(image, true, [], longest=LONGEST) if image and not boxes else None
    uri = data_uri(alone) if alone else None
    return {**row, "image": uri, "image_count": row["pictures"], "answers": answers}
