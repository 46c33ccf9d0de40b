"""Heat map of recalls: a row for each language, and columns for recall at k in both directions."""

from pathlib import Path
from typing import Any

import numpy as np

from openpali.eval.prompts.language_names import language_name
from openpali.eval.scoring.recall import DIRECTION_NAMES, DIRECTIONS, RetrievalTable, recall_key

_COLOURS = "YlGnBu"
_MISSING = 'the heat map needs matplotlib: pip install "openpali[eval]"'


def draw_heat_map(table: RetrievalTable, path: str | Path, title: str = "") -> Path:
    """Draw the recalls of every language, highest first, between the rows of their mean and of chance.

    Colours range from 0 to the next tenth above the largest value, so that a weak model has visible differences.

    Args:
        table: of `retrieval_per_language`.
        path: PNG file to write.
        title: heading.

    Returns:
        The path written.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(_MISSING) from error
    names, panels = heat_rows(table)
    top = max(0.1, np.ceil(10 * max(values.max() for values in panels.values())) / 10)
    wide = 2.6 + 1.5 * len(table.ks)
    # not pyplot, whose state and backend belong to the process
    figure = Figure(figsize=(wide, 1.6 + 0.27 * len(names)), dpi=150, layout="constrained")
    axes = figure.subplots(1, len(DIRECTIONS), sharey=True)
    for axis, direction in zip(axes, DIRECTIONS):
        image = draw_panel(axis, panels[direction], table.ks, top)
        axis.set_title(DIRECTION_NAMES[direction], fontsize=10)
    axes[0].set_yticks(range(len(names)), names, fontsize=9)
    for place in (0, len(names) - 1):
        axes[0].get_yticklabels()[place].set_fontweight("bold")
    bar = figure.colorbar(image, ax=axes, location="bottom", fraction=0.03, pad=0.02, aspect=50)
    bar.set_label("recall, %", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    figure.suptitle(title or "Retrieval by language", fontsize=12)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def heat_rows(table: RetrievalTable) -> tuple[list[str], dict[str, np.ndarray]]:
    """Names of the rows (mean, languages, chance), and by direction their recalls, float[rows, k]."""
    first = [recall_key(direction, table.ks[0]) for direction in DIRECTIONS]
    order = sorted(table.languages, key=lambda name: -sum(table.languages[name].recalls[key] for key in first))
    rows = [table.mean, *(table.languages[name].recalls for name in order), table.chance]
    panels = {
        direction: np.array([[row[recall_key(direction, k)] for k in table.ks] for row in rows])
        for direction in DIRECTIONS
    }
    return ["mean", *(language_name(name) for name in order), "chance"], panels


def draw_panel(axis: Any, values: np.ndarray, ks: tuple[int, ...], top: float) -> Any:
    """Draw one direction: coloured cells with values in per cent, and lines beside the mean and chance."""
    image = axis.imshow(100 * values, cmap=_COLOURS, vmin=0, vmax=100 * top, aspect="auto")
    axis.set_xticks(range(len(ks)), [f"R@{k}" for k in ks], fontsize=9)
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    for (row, column), value in np.ndenumerate(values):
        ink = "white" if value > 0.6 * top else "black"
        axis.text(column, row, f"{100 * value:.1f}", ha="center", va="center", color=ink, fontsize=8)
    for edge in (0.5, len(values) - 1.5):
        axis.axhline(edge, color="white", linewidth=4)
    for side in axis.spines.values():
        side.set_visible(False)
    return image
