"""The report: one self-contained HTML page with scores, training curves and a gallery of predictions."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from PIL import Image

from openpali.eval.answering.evaluate_task import TaskResult
from openpali.eval.answering.predictions import Examples
from openpali.eval.report.drawing import PREDICTED_COLOUR, TRUE_COLOUR, draw_comparison

LONGEST = 640  # pixels; larger images are reduced, so that the page stays small


def write_report(
    path: str | Path,
    title: str,
    results: Sequence[TaskResult],
    images: Mapping[str, Image.Image],
    logs: Sequence[Mapping[str, Any]] | None = None,
    credits: str = "",
    *,
    settings: Mapping[str, Any] | None = None,
    worst: int = 12,
    best: int = 6,
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
        worst: number of examples with the lowest scores, for each task.
        best: number of examples with the highest scores, after them.

    Returns:
        The path written.
    """
    return write_page(
        path,
        "report/report.html.j2",
        title=title,
        results=results,
        galleries=[gallery(result, images, worst, best) for result in results],
        curves=[Markup(svg) for svg in draw_curves(logs or [])],
        credits=credits,
        settings=settings or {},
    )


def write_page(path: str | Path, template: str, **content: Any) -> Path:
    """Render a template of eval/, such as `report/report.html.j2`, with all text escaped, and write it."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parents[1]), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"value": format_value, "interval": format_interval, "metric_name": format_metric_name}
    colours = {"true_colour": TRUE_COLOUR, "predicted_colour": PREDICTED_COLOUR}
    page = environment.get_template(template).render(**colours, **content)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def gallery_rows(
    result: TaskResult, worst: int = 12, best: int = 6
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows with the lowest scores, and the others with the highest, each in order of score."""
    rows = sorted(result.predictions, key=lambda row: row["score"])
    return rows[:worst], rows[worst:][::-1][:best]


def gallery_images(
    result: TaskResult, dataset: Examples | Sequence[Any], worst: int = 12, best: int = 6
) -> dict[str, Image.Image]:
    """The first image of each example in the gallery, by id."""
    rows = [row for group in gallery_rows(result, worst, best) for row in group]
    found = {row["id"]: dataset[row["index"]].images for row in rows}
    return {key: images[0] for key, images in found.items() if images}


def gallery(
    result: TaskResult, images: Mapping[str, Image.Image], worst: int, best: int
) -> list[tuple[str, list[dict[str, Any]]]]:
    """Headings, each with the cards of its examples."""
    binary = all(row["score"] in (0.0, 1.0) for row in result.predictions)
    low, high = gallery_rows(result, worst, best)
    groups = [("Lowest scores", low), ("Highest scores", high)]
    return [(heading, [gallery_card(row, images, result, binary) for row in rows]) for heading, rows in groups if rows]


def gallery_card(
    row: dict[str, Any], images: Mapping[str, Image.Image], result: TaskResult, binary: bool
) -> dict[str, Any]:
    """Values of one example for the template."""
    image, score = images.get(row["id"]), row["score"]
    drawn = draw_comparison(image, true_objects(row), row["predicted_boxes"], longest=LONGEST) if image else None
    return {
        **row,
        "image": data_uri(drawn) if drawn else None,
        "image_count": row["pictures"],
        "mark": ("right" if score else "wrong") if binary else format_value(score, result.metric_key),
        "kind": card_kind(score),
    }


def card_kind(score: float) -> str:
    """The CSS class of a score."""
    return "right" if score >= 1 else "wrong" if score <= 0 else "partly"


def true_objects(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Ground-truth boxes, with masks where the row has them."""
    masks = row.get("masks") or [None] * len(row["boxes"])
    return [box | {"mask": mask} for box, mask in zip(row["boxes"], masks, strict=True)]


def data_uri(image: Image.Image) -> str:
    """The image as a `data:` URI."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def format_value(value: float, key: str) -> str:
    """A metric as text: per cent, CIDEr x 100, or a count."""
    if math.isnan(value):
        return "undefined"
    if key == "examples":
        return f"{value:.0f}"
    # CIDEr is already multiplied by 100, and is no share
    return f"{value:.1f}" if is_cider(key) else f"{100 * value:.1f} %"


def format_interval(ends: tuple[float, float], key: str) -> str:
    """The ends of an interval, with their unit once."""
    low, high = (format_value(end, key) for end in ends)
    return f"{low.removesuffix(' %')} – {high}"


def is_cider(key: str) -> bool:
    """Whether a metric is CIDEr, of all captions or of those of a type; all others are shares."""
    return "cider" in key.split("_")


NAMES = {"f1": "F1", "map": "mAP", "map50": "mAP 50", "iou": "IoU", "cider": "CIDEr"}
NAMES |= {"anls": "ANLS", "bleu": "BLEU", "rouge": "ROUGE", "l": "L"}


def format_metric_name(key: str) -> str:
    """The name of a metric in words: "mean IoU" for mean_iou."""
    return " ".join(NAMES.get(word, word) for word in key.split("_"))


def draw_curves(logs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Draw loss and validation scores of each stage as SVG elements, in the colours of the page."""
    stages = list(dict.fromkeys(str(row.get("stage", "")) for row in logs))
    panels = []
    for stage in stages:
        rows = [row for row in logs if str(row.get("stage", "")) == stage]
        for kind, keys in (("loss", ["loss", "eval_loss"]), ("validation, %", validation_keys(rows))):
            series = {curve_name(key): points(rows, key) for key in keys}
            if series := {name: xy for name, xy in series.items() if xy[0]}:
                panels.append((f"{stage} {kind}".strip(), series))
    return [draw_panel(f"panel {index}", *panel) for index, panel in enumerate(panels)]


INK = "#010203"
LINES = ("#4c6ef5", "#f76707", "#0ca678", "#be4bdb")


def draw_panel(salt: str, heading: str, series: Mapping[str, tuple[list[float], list[float]]]) -> str:
    """Draw one chart as an SVG element; `salt` makes its ids unique on the page."""
    # slow to import, and only needed where there are curves
    import matplotlib
    from matplotlib.figure import Figure

    style: Any = {"svg.fonttype": "none", "svg.hashsalt": salt, "font.family": "sans-serif", "font.size": 9}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(3.6, 2.5), layout="constrained")
        fill_panel(figure.add_subplot(), heading, series)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    # matplotlib has no name for the colour of the surrounding text
    return svg[svg.index("<svg") :].replace(INK, "currentColor")


def fill_panel(axes: Any, heading: str, series: Mapping[str, tuple[list[float], list[float]]]) -> None:
    """Draw the lines, and axes without a frame."""
    for (name, (steps, values)), colour in zip(series.items(), LINES):
        smooth = running_mean(values)
        if smooth != values:
            axes.plot(steps, values, color=colour, alpha=0.3, linewidth=0.8)
        marker = "o" if len(values) < 25 else None
        axes.plot(steps, smooth, color=colour, linewidth=1.8, marker=marker, markersize=3, label=name)
    axes.set_title(heading, color=INK, loc="left", fontsize=10, fontweight="bold", parse_math=False)
    axes.set_xlabel("step", color=INK)
    axes.tick_params(colors=INK, labelsize=8)
    axes.grid(color=INK, alpha=0.12, linewidth=0.6)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)
    if len(series) > 1:
        axes.legend(frameon=False, fontsize=8, labelcolor=INK)


def validation_keys(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Up to four validation scores of a training log."""
    keys = dict.fromkeys(key for row in rows for key in row if key.startswith("eval_"))
    return [key for key in keys if not key.endswith(("examples", "runtime", "per_second", "loss"))][:4]


def curve_name(key: str) -> str:
    """The label of a curve."""
    return "validation" if key == "eval_loss" else key.removeprefix("eval_")


def points(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Steps and values of the rows with the key; validation scores in per cent, which CIDEr is already."""
    scale = 100.0 if key.startswith("eval_") and key != "eval_loss" and not is_cider(key) else 1.0
    # undefined values are null in a log
    pairs = [(float(row["step"]), scale * float(row[key])) for row in rows if row.get(key) is not None]
    return [step for step, _ in pairs], [value for _, value in pairs]


def running_mean(values: list[float]) -> list[float]:
    """Moving average over a fiftieth of the curve on each side; a short curve does not change."""
    reach = len(values) // 50
    if not reach:
        return values
    windows = [values[max(0, i - reach) : i + reach + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]
