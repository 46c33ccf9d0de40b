"""The figures of the comparisons' pages."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from verdicts import Scores, variant_mean

mpl.use("Agg")
import matplotlib.pyplot as plt

mpl.rcParams["svg.hashsalt"] = "openpali"  # the same ids, and so the same file, each time

COLUMNS = 3


def plot(scores: Scores, content: dict[str, Any], file: Path) -> None:
    """A panel for each measure: every variant's seeds, mean and interval."""
    measures, variants = list(content["measures"]), list(content["variants"])
    lines = -(-len(measures) // COLUMNS)
    columns = min(COLUMNS, len(measures))
    size = (2.4 * columns + 1.4, lines * (0.7 + 0.32 * len(variants)))
    figure, panels = plt.subplots(lines, columns, figsize=size, sharey=True, squeeze=False)
    for panel in panels.flat[len(measures) :]:
        panel.axis("off")
    for panel, measure in zip(panels.flat, measures):
        for height, variant in enumerate(variants):
            seeds = [found[measure] for found in scores.get(variant, {}).values() if measure in found]
            mean = variant_mean(scores, variant, measure)
            if mean is None:
                continue
            panel.plot(seeds, [height] * len(seeds), "o", color="tab:gray", markersize=3)
            half = mean.half if np.isfinite(mean.half) else 0
            panel.errorbar(mean.value, height, xerr=half, fmt="D", color="tab:blue", markersize=4, capsize=3)
        panel.set_title(measure, fontsize=8)
        panel.tick_params(labelsize=7)
        panel.grid(axis="x", alpha=0.3)
    panels[0][0].set_yticks(range(len(variants)), variants, fontsize=8)
    panels[0][0].set_ylim(len(variants) - 0.5, -0.5)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)


def plot_curves(lines: list[dict[str, Any]], content: dict[str, Any], file: Path) -> None:
    """A panel for each measure with a curve: every variant's seeds over the steps, and their mean."""
    measures = content["curves"]
    figure, panels = plt.subplots(1, len(measures), figsize=(3.2 * len(measures), 2.4), squeeze=False)
    for panel, measure in zip(panels.flat, measures):
        for number, variant in enumerate(content["variants"]):
            curves = [line["curves"][measure] for line in lines if line["variant"] == variant]
            curves = [np.array(curve) for curve in curves if len(curve) > 1]
            for curve in curves:
                panel.plot(*curve.T, color=f"C{number}", alpha=0.35, linewidth=1)
            if curves:
                panel.plot(*np.mean(curves, axis=0).T, "o-", color=f"C{number}", markersize=3, label=variant)
        panel.set_title(measure, fontsize=8)
        panel.set_xlabel("step", fontsize=8)
        panel.tick_params(labelsize=7)
        panel.grid(alpha=0.3)
    panels[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)
