"""Training curves as SVG elements, each panel in its own unit."""

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import escape

from openpali.eval.report.values import format_metric_name, unit_of

# title of a panel, and its curves by name: steps and values
Series = dict[str, tuple[list[float], list[float]]]
Panel = tuple[str, Series]
MOST_CURVES = 4  # of a panel


def draw_curves(logs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Draw loss and validation scores of each stage as SVG elements, in the colours of the page."""
    stages = list(dict.fromkeys(str(row.get("stage", "")) for row in logs))
    panels: list[Panel] = []
    for stage in stages:
        rows = [row for row in logs if str(row.get("stage", "")) == stage]
        panels += [(f"{stage} {title}".strip(), series) for title, series in stage_panels(rows)]
    return [draw_panel(f"panel {index}", *panel) for index, panel in enumerate(panels)]


def stage_panels(rows: Sequence[Mapping[str, Any]]) -> Iterator[Panel]:
    """The loss, then the validation scores of each unit; a panel without a value is left out."""
    by_unit = {"loss": {"training": "loss", "validation": "eval_loss"}}
    keys = validation_keys(rows)
    for key in keys:
        by_unit.setdefault(curve_unit(key, keys), {})[format_metric_name(key.removeprefix("eval_"))] = key
    for unit, names in by_unit.items():
        found = {name: points(rows, key, unit) for name, key in names.items()}
        series = dict([(name, xy) for name, xy in found.items() if xy[0]][:MOST_CURVES])
        if series:
            yield panel_title(unit, list(series)), series


def panel_title(unit: str, names: Sequence[str]) -> str:
    """The unit, with the name of the score where it is the only one."""
    if unit == "loss":
        return "loss"
    if unit == "%":
        return f"validation {names[0]}, %" if len(names) == 1 else "validation, %"
    # a count says what is counted, and CIDEr's name is its unit
    return f"validation {names[0] if len(names) == 1 else unit}"


def validation_keys(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The validation scores of a training log."""
    keys = dict.fromkeys(key for row in rows for key in row if key.startswith("eval_"))
    return [key for key in keys if not key.endswith(("examples", "runtime", "per_second", "loss"))]


def curve_unit(key: str, keys: Sequence[str]) -> str:
    """The unit of a curve; each count has a panel of its own, and so has the mean of scores of several units."""
    unit = unit_of(key)
    if key == "eval_mean" and any(unit_of(other) != "%" for other in keys if other != key):
        return "mean of scores"
    return key.removeprefix("eval_") if unit == "count" else unit


INK = "#010203"
LINES = ("#4c6ef5", "#f76707", "#0ca678", "#be4bdb")


def draw_panel(salt: str, heading: str, series: Series) -> str:
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
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(in_words(heading, series))}"', 1)


def in_words(heading: str, series: Series) -> str:
    """The first and the last value of each curve, for those who do not see it."""
    ends = [
        f"{name} {values[0]:.4g} at step {steps[0]:.0f}, {values[-1]:.4g} at step {steps[-1]:.0f}"
        for name, (steps, values) in series.items()
    ]
    return f"{heading}: " + "; ".join(ends)


def fill_panel(axes: Any, heading: str, series: Series) -> None:
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


def points(rows: Sequence[Mapping[str, Any]], key: str, unit: str) -> tuple[list[float], list[float]]:
    """Steps and values, in the unit, of the rows with the key."""
    # undefined values are null in a log
    known = [row for row in rows if row.get(key) is not None]
    return [float(row["step"]) for row in known], [float(row[key]) * (100 if unit == "%" else 1) for row in known]


def running_mean(values: list[float]) -> list[float]:
    """Moving average over a fiftieth of the curve on each side; a short curve does not change."""
    reach = len(values) // 50
    if not reach:
        return values
    windows = [values[max(0, i - reach) : i + reach + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]
