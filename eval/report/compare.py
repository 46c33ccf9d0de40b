"""Several models on the same examples, side by side: a table of scores and differences, and what each one answered."""

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
    """Differences of every model but the first from the first one, by name of model and of metric.

    Args:
        results: of one task on the same examples, by name of the model.
        metric: folder of the metric.

    Raises:
        ValueError: they are not of the same examples.
    """
    first, *others = results
    return {name: compare_results(metric, results[first], results[name]) for name in others}


def save_comparison(
    path: Path, results: Results, differences: Differences, metric: str, models: Mapping[str, str]
) -> None:
    """Write comparison.json: scores, intervals and differences of the models, which `models` names in full."""
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


def shown_examples(results: Results, apart: int = 12, worst: int = 6, best: int = 3) -> dict[str, list[int]]:
    """Numbers of rows by heading: where scores are furthest apart, and of the others the worst and the best of all."""
    scores = np.array([[row["score"] for row in result.predictions] for result in results.values()])
    spread, mean = scores.max(axis=0) - scores.min(axis=0), scores.mean(axis=0)
    order = np.argsort(-spread, kind="stable")
    differ = [int(i) for i in order[:apart] if spread[i] > 0]
    rest = [int(i) for i in np.argsort(mean, kind="stable") if int(i) not in set(differ)]
    low, high = rest[:worst], rest[worst:][::-1][:best]
    groups = {"Where they differ most": differ, "Worst of all": low, "Best of all": high}
    return {heading: rows for heading, rows in groups.items() if rows}


def comparison_images(results: Results, dataset: Examples | Sequence[Any]) -> dict[str, Image.Image]:
    """The first image of each example that the page will show, by id."""
    rows = next(iter(results.values())).predictions
    chosen = [rows[i] for group in shown_examples(results).values() for i in group]
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
    """Write scores with their differences, and the same images with every model's answer, into one HTML file.

    Args:
        path: file to write.
        title: heading of the page.
        results: by name of the model; the first is what the others are compared with.
        differences: from `compare_models`.
        images: images by example id, from `comparison_images`.
        credits: for the foot of the page.
        settings: what else a reader needs to know, by name.

    Returns:
        The path written.
    """
    groups = shown_examples(results)
    return write_page(
        path,
        "compare.html.j2",
        title=title,
        results=results,
        first=next(iter(results)),
        differences=differences,
        groups={heading: [card(results, i, images) for i in rows] for heading, rows in groups.items()},
        credits=credits,
        settings=settings or {},
    )


def card(results: Results, number: int, images: Mapping[str, Image.Image]) -> dict[str, Any]:
    """What the page shows of one example: once what was asked, and each model's answer.

    Where a model has found boxes or masks, each one's are drawn on an image of its own.
    """
    rows = {name: result.predictions[number] for name, result in results.items()}
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
                "picture": data_uri(drawn) if drawn else None,
            }
        )
    alone = draw_comparison(image, true, [], longest=LONGEST) if image and not boxes else None
    return {**row, "picture": data_uri(alone) if alone else None, "answers": answers}
