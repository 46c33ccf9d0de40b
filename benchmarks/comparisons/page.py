"""Make docs/evidence/comparisons.md, a page for each stage behind it, and their plots, from the results of `run.py`.

python benchmarks/comparisons/page.py
"""

import re
from collections import Counter
from pathlib import Path
from typing import Any

from plan import read_rows
from plots import plot, plot_curves
from run import RESULTS, ROOT, read_results
from verdicts import Scores, by_variant, variant_mean, verdict

Line = dict[str, Any]

EVIDENCE = ROOT / "docs" / "evidence"
FIGURES = ROOT / "docs" / "figures" / "comparisons"
PAGES = {
    "encoders": "Image encoders (stage 0)",
    "pretraining": "Multimodal pretraining (stages 1 and 2)",
    "transfers": "Transfers",
}
INTRODUCTION = """# The papers' comparisons, repeated

What PaLI-3, PaliGemma and SigLIP found by varying one thing, rerun at the size that two CPU cores allow: built-in
images of 64 px, 16 things, encoders of 1M and models of 2M parameters. `make comparisons` runs every row and
makes these pages; the rows are in `benchmarks/comparisons/rows`, every score with its options and versions in
`benchmarks/results/comparisons.jsonl`.

A mean has its 95 % interval over seeds (Student's t). A claim of the paper is decided if the interval of the
difference, seed by seed, leaves out 0; an equality, if it lies within the margin given. "Not decided" means that this
many steps and seeds cannot tell. Sizes differ from the papers' by a factor of a thousand, so a disagreement is about
this size only.
"""
COUNTED = ("agrees", "disagrees", "not decided")


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


def heading(name: str, content: dict[str, Any]) -> str:
    """The heading of a row."""
    return f"{int(name.split('-')[0])}. {content['title']}"


def section(name: str, content: dict[str, Any], lines: list[Line], write_plots: bool) -> list[str]:
    """The part of a page on one row."""
    scores = by_variant(lines)
    text = [f"## {heading(name, content)}", "", f"Varied: {content['varied'].strip()}.", ""]
    text += [f"The paper: {content['paper'].strip()}", ""]
    if "reason" in content:
        return [*text, f"Not run: {content['reason'].strip()}", ""]
    if not lines:
        return [*text, f"Not run yet: `python benchmarks/comparisons/run.py {name}`.", ""]
    folder = FIGURES / content["page"]
    figure, curves = folder / f"{name}.svg", folder / f"{name}-curves.svg"
    if write_plots:
        folder.mkdir(parents=True, exist_ok=True)
        plot(scores, content, figure)
    lower = content.get("lower", [])
    text += [*table(scores, content), ""]
    text += [f"Lower is better for {', '.join(lower)}.", ""] if lower else []
    text += [f"![Seeds, means and intervals of every variant]({shown(figure)})", ""]
    if content.get("curves"):
        if write_plots:
            plot_curves(lines, content, curves)
        text += [f"![Every seed over the steps, and their mean]({shown(curves)})", ""]
    text += [f"- {verdict(claim, scores, lower)}" for claim in content["claims"]]
    hours = sum(unique_seconds(lines).values()) / 3600
    text += ["", *([content["note"].strip(), ""] if content.get("note") else [])]
    return [*text, f"{hours:.1f} CPU hours: `python benchmarks/comparisons/run.py {name}`.", ""]


def shown(figure: Path) -> str:
    """A figure's address from a page of a stage."""
    return f"../../{figure.relative_to(ROOT / 'docs')}"


def summary(name: str, content: dict[str, Any], lines: list[Line]) -> str:
    """A row of the first page's tables: what the paper found, and how many of its claims agree."""
    title = heading(name, content)
    anchor = re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
    cells = [f"[{title}](comparisons/{content['page']}.md#{anchor})", " ".join(content["paper"].split())]
    scores, lower = by_variant(lines), content.get("lower", [])
    words = Counter(verdict(claim, scores, lower).word for claim in content.get("claims", []))
    cells += [str(words[word]) for word in COUNTED] if lines else ["not run", "", ""]
    return f"| {' | '.join(cells)} |"


def unique_seconds(lines: list[Line]) -> dict[str, float]:
    """CPU seconds by step, each shared step once."""
    return {line["steps"][name]: seconds for line in lines for name, seconds in line["cpu_seconds"].items()}


def make_pages(write_plots: bool = True) -> dict[Path, str]:
    """The pages' texts by file, the summary first; plots are written beside."""
    results, every_row = read_results(RESULTS), read_rows()
    lines = {name: [line for key, line in results.items() if key[0] == name] for name in every_row}
    pages, first = {}, [INTRODUCTION]
    for page, title in PAGES.items():
        rows = {name: content for name, content in every_row.items() if content["page"] == page}
        first += [f"## {title}", "", "| row | the paper | agree | disagree | not decided |", "|---|---|---|---|---|"]
        first += [*[summary(name, content, lines[name]) for name, content in rows.items()], ""]
        text = [f"# {title}: the papers' comparisons, repeated", ""]
        text += ["How claims are decided, and all rows at a glance: [comparisons](../comparisons.md).", ""]
        for name, content in rows.items():
            text += section(name, content, lines[name], write_plots)
        pages[EVIDENCE / "comparisons" / f"{page}.md"] = "\n".join(text)
    seconds = unique_seconds(list(results.values()))
    first.append(f"All rows together: {sum(seconds.values()) / 3600:.1f} CPU hours, {len(seconds)} commands.")
    return {EVIDENCE / "comparisons.md": "\n".join(first) + "\n"} | pages


def main() -> None:
    """Write the pages and their plots."""
    for file, text in make_pages().items():
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, "utf-8")
        print(f"wrote {file.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
