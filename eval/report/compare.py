"""Comparison of several models on the same examples: scores, differences, and their predictions side by side."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from openpali.eval.answering.evaluate_task import TaskResult
from openpali.eval.answering.predictions import Examples
from openpali.eval.intervals.bootstrap import LEVEL, RESAMPLES, SEED, Difference
from openpali.eval.intervals.by_metric import compare_results
from openpali.eval.report.cards import cut, draw_row, fill_groups, size_of, text_fields
from openpali.eval.report.json_numbers import json_numbers
from openpali.eval.report.layers import reduced
from openpali.eval.report.page import BUDGET, read_script, write_page
from openpali.eval.report.values import card_kind, format_value, shown_number

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


def select_examples(results: Results, differ: int = 40, worst: int = 12, best: int = 8) -> dict[str, list[int]]:
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
    """The first image of each example on the page, by id, reduced where it is larger than on the page."""
    rows = next(iter(results.values())).predictions
    chosen = [rows[i] for group in select_examples(results).values() for i in group]
    found = ((row["id"], dataset[row["index"]].images) for row in chosen)
    return {key: reduced(images[0]) for key, images in found if images}


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
    make = partial(comparison_card, results, images=images)
    return write_page(
        path,
        "report/compare.html.j2",
        title=title,
        results=results,
        first=next(iter(results)),
        differences=differences,
        groups=list(fill_groups(select_examples(results), make, BUDGET)),
        credits=credits,
        settings=settings or {},
        script=read_script(),
    )


def comparison_card(results: Results, index: int, images: Mapping[str, Image.Image]) -> dict[str, Any]:
    """Values of one example for the template: the prompt, and each model's answer.

    Where any model predicted boxes or masks, each model has a drawing of its own.
    """
    rows = {name: result.predictions[index] for name, result in results.items()}
    row, key = next(iter(rows.values())), next(iter(results.values())).metric_key
    image, boxes = images.get(row["id"]), any(one["predicted_boxes"] for one in rows.values())
    answers = [
        {
            "model": name,
            "text": cut(one["text"]),
            "mark": format_value(one["score"], key),
            "kind": card_kind(one["score"], key),
            "drawing": draw_row(image, row, one["predicted_boxes"]) if boxes else None,
        }
        for name, one in rows.items()
    ]
    drawing, scores = None if boxes else draw_row(image, row), [one["score"] for one in rows.values()]
    drawings = [one for one in (drawing, *(answer["drawing"] for answer in answers)) if one]
    card = text_fields(row) | {"answers": answers, "drawing": drawing, "drawings": drawings}
    texts = [card["id"], card["references"], *len(rows) * [card["prefix"]]]
    return card | {
        "kinds": comparison_kinds(scores, key),
        "score": round(shown_number(sum(scores) / len(scores), key), 1),
        "size": size_of(texts + [text for answer in answers for text in (answer["text"], answer["model"])], drawings),
    }


def comparison_kinds(scores: Sequence[float], key: str) -> str:
    """What the filters know of an example, from its score with each model; the first one is the others' measure."""
    first, *others = scores
    kinds = {card_kind(score, key) for score in scores}
    return " ".join(
        name
        for name, holds in (
            ("differ", any(score != first for score in others)),
            ("better", any(score > first for score in others)),
            ("worse", any(score < first for score in others)),
            ("wrong", kinds == {"wrong"}),
            ("right", kinds == {"right"}),
        )
        if holds
    )
