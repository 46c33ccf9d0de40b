"""Make docs/evidence/comparisons.md and its plot from the results of `run.py`.

python benchmarks/comparisons/page.py
"""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from plan import read_rows
from run import RESULTS, ROOT, read_results
from verdicts import Scores, by_variant, variant_mean, verdict

mpl.use("Agg")
import matplotlib.pyplot as plt

mpl.rcParams["svg.hashsalt"] = "openpali"  # the same ids, and so the same file, each time

PAGE = ROOT / "docs" / "evidence" / "comparisons.md"
FIGURES = ROOT / "docs" / "figures"
COLUMNS = 3
INTRODUCTION = """# The papers' comparisons, repeated

What PaLI-3, PaliGemma and SigLIP found by varying one thing, rerun at the size that two CPU cores allow: built-in
images of 64 px, 16 things, encoders of 1M and models of 2M parameters. `make comparisons` runs every row and
makes this page; the rows are in `benchmarks/comparisons/rows`, every score with its options and versions in
`benchmarks/results/comparisons.jsonl`.

A mean has its 95 % interval over seeds (Student's t). A claim of the paper is decided if the interval of the
difference, seed by seed, leaves out 0; an equality, if it lies within the margin given. "Not decided" means that this
many steps and seeds cannot tell. Sizes differ from the papers' by a factor of a thousand, so a disagreement is about
this size only.
"""


def table(scores: Scores, content: dict[str, Any]) -> list[str]:
    """A table of a row: variants by measures."""
    measures = list(content["measures"])
    lines = ["| | " + " | ".join(measures) + " | seeds |", "|---" * (len(measures) + 2) + "|"]
    for variant in content["variants"]:
        means = [variant_mean(scores, variant, measure) for measure in measures]
        seeds = len(scores.get(variant, {}))
        none = "none" if seeds else "not run"
        lines.append(f"| {variant} | " + " | ".join(none if m is None else str(m) for m in means) + f" | {seeds} |")
    return lines


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


def section(name: str, content: dict[str, Any], lines: list[dict[str, Any]], write_plots: bool) -> list[str]:
    """The part of the page on one row."""
    number, scores = int(name.split("-")[0]), by_variant(lines)
    text = [f"## {number}. {content['title']}", "", f"Varied: {content['varied'].strip()}.", ""]
    text += [f"The paper: {content['paper'].strip()}", ""]
    if "reason" in content:
        return [*text, f"Not run: {content['reason'].strip()}", ""]
    if not lines:
        return [*text, f"Not run yet: `python benchmarks/comparisons/run.py {name}`.", ""]
    figure = FIGURES / f"comparison-{number:02}.svg"
    if write_plots:
        plot(scores, content, figure)
    lower = content.get("lower", [])
    text += [*table(scores, content), ""]
    text += [f"Lower is better for {', '.join(lower)}.", ""] if lower else []
    text += [f"![Seeds, means and intervals of every variant](../figures/{figure.name})", ""]
    if content.get("curves"):
        curves = FIGURES / f"comparison-{number:02}-curves.svg"
        if write_plots:
            plot_curves(lines, content, curves)
        text += [f"![Every seed over the steps, and their mean](../figures/{curves.name})", ""]
    text += [f"- {verdict(claim, scores, lower)}" for claim in content["claims"]]
    hours = sum(unique_seconds(lines).values()) / 3600
    text += ["", *([content["note"].strip(), ""] if content.get("note") else [])]
    return [*text, f"{hours:.1f} CPU hours: `python benchmarks/comparisons/run.py {name}`.", ""]


def unique_seconds(lines: list[dict[str, Any]]) -> dict[str, float]:
    """CPU seconds by step, each shared step once."""
    return {line["steps"][name]: seconds for line in lines for name, seconds in line["cpu_seconds"].items()}


def make_page(write_plots: bool = True) -> str:
    """The page's text; its plots are written beside."""
    results = read_results(RESULTS)
    text = [INTRODUCTION]
    for name, content in read_rows().items():
        text += section(name, content, [line for key, line in results.items() if key[0] == name], write_plots)
    seconds = unique_seconds(list(results.values()))
    text.append(f"All rows together: {sum(seconds.values()) / 3600:.1f} CPU hours, {len(seconds)} commands.")
    return "\n".join(text) + "\n"


def main() -> None:
    """Write the page and its plots."""
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(make_page(), "utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
