"""The report: one self-contained HTML page with scores, training curves and a gallery of predictions."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from PIL import Image

from openpali.eval.answering.evaluate_task import TaskResult
from openpali.eval.answering.predictions import Examples
from openpali.eval.report.cards import LONG, Group, cut, draw_row, fill_groups, size_of, text_fields
from openpali.eval.report.confusion import confusion_table
from openpali.eval.report.curves import draw_curves
from openpali.eval.report.drawing import PREDICTED_COLOUR, TRUE_COLOUR
from openpali.eval.report.layers import reduced
from openpali.eval.report.values import (
    card_kind,
    format_interval,
    format_metric_name,
    format_points,
    format_value,
    shown_number,
)

BUDGET = 4_000_000  # bytes of all cards of a page, which mail and phones still take
WORST, BEST = 40, 20  # examples of a task


def write_report(
    path: str | Path,
    title: str,
    results: Sequence[TaskResult],
    images: Mapping[str, Image.Image],
    logs: Sequence[Mapping[str, Any]] | None = None,
    credits: str = "",
    *,
    settings: Mapping[str, Any] | None = None,
    worst: int = WORST,
    best: int = BEST,
) -> Path:
    """Write scores, training curves and a gallery, lowest scores first, into one HTML file.

    Args:
        path: file to write.
        title: heading of the page.
        results: of `evaluate_task`, with `blank_metrics` where the blind baseline was measured.
        images: by example id, from `gallery_images`; a card without one has only text.
        logs: lines of logs.jsonl (`step`, `loss`, `eval_…`), with a `stage` where there are several.
        credits: for the footer of the page; URLs in it become links.
        settings: checkpoint, source and others, by name, for the head of the page.
        worst: number of examples with the lowest scores, for each task; fewer where the page would be too large.
        best: number of examples with the highest scores, after them.

    Returns:
        The path written.
    """
    return write_page(
        path,
        "report/report.html.j2",
        title=title,
        results=results,
        galleries=[gallery(result, images, worst, best, BUDGET // len(results)) for result in results],
        confusions=[confusion_table(result.predictions) for result in results],
        curves=[Markup(svg) for svg in draw_curves(logs or [])],
        credits=credits,
        settings=settings or {},
        script=read_script(),
    )


def write_page(path: str | Path, template: str | Path, **content: Any) -> Path:
    """Render a template of eval/, such as `report/report.html.j2`, or a file, with all text escaped, and write it.

    The page may load nothing and run nothing but `script`, whatever stands in the texts of a model.
    """
    template = Path(template)
    # a file of eval/ may be extended by one elsewhere
    folders = [Path(__file__).parents[1], *([template.parent] if template.is_absolute() else [])]
    name = template.name if template.is_absolute() else template.as_posix()
    loader = FileSystemLoader(folders)
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"value": format_value, "interval": format_interval, "metric_name": format_metric_name}
    environment.filters |= {"points": format_points}
    script = content.get("script", "")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    values = {"true_colour": TRUE_COLOUR, "predicted_colour": PREDICTED_COLOUR, "long": LONG, "digest": digest}
    page = environment.get_template(name).render(**values, **content)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def read_script() -> Markup:
    """The filters' code."""
    return Markup(Path(__file__).with_name("filters.js").read_text("utf-8"))


def gallery_rows(
    result: TaskResult, worst: int = WORST, best: int = BEST
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows with the lowest scores, and the others with the highest, each in order of score."""
    rows = sorted(result.predictions, key=lambda row: row["score"])
    return rows[:worst], rows[worst:][::-1][:best]


def gallery_images(
    result: TaskResult, dataset: Examples | Sequence[Any], worst: int = WORST, best: int = BEST
) -> dict[str, Image.Image]:
    """The first image of each example in the gallery, by id, reduced where it is larger than on the page."""
    rows = [row for group in gallery_rows(result, worst, best) for row in group]
    found = ((row["id"], dataset[row["index"]].images) for row in rows)
    return {key: reduced(images[0]) for key, images in found if images}


def gallery(result: TaskResult, images: Mapping[str, Image.Image], worst: int, best: int, budget: int) -> list[Group]:
    """Headings, each with the cards of its examples, together no larger than so many bytes."""
    binary = all(row["score"] in (0.0, 1.0) for row in result.predictions)
    low, high = gallery_rows(result, worst, best)
    groups = {heading: rows for heading, rows in (("Lowest scores", low), ("Highest scores", high)) if rows}
    return list(fill_groups(groups, partial(gallery_card, images=images, result=result, binary=binary), budget))


def gallery_card(
    row: dict[str, Any], images: Mapping[str, Image.Image], result: TaskResult, binary: bool
) -> dict[str, Any]:
    """Values of one example for the template."""
    drawing, score, key = draw_row(images.get(row["id"]), row), row["score"], result.metric_key
    card = text_fields(row) | {"text": cut(row["text"]), "drawing": drawing}
    return card | {
        "mark": ("right" if score else "wrong") if binary else format_value(score, key),
        "kind": card_kind(score, key),
        "score": round(shown_number(score, key), 1),
        "size": size_of((card["id"], card["prefix"], card["references"], card["text"]), [drawing]),
    }
