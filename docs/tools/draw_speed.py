"""Make docs/figures/speed.png: how the costs of openpali and of its alternatives grow, from the results of benchmarks.

python docs/tools/draw_speed.py
"""

import json
import re
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "two-cpu-cores.jsonl"
FIGURE = ROOT / "docs" / "figures" / "speed.png"
# title, benchmark, pattern of its cases whose number is the horizontal axis, unit, name of the axis
PANELS = [
    ("training step, suffix 64", "train_step", r"width 256, batch (\d+), suffix 64", "GB", "batch"),
    ("training step, suffix 64", "train_step", r"width 256, batch (\d+), suffix 64", "CPU s", "batch"),
    ("SigLIP's loss", "contrastive_memory", r"batch (\d+)", "GB", "image-text pairs"),
    ("resuming a stream", "stream_resume", r"record (\d+)", "CPU s", "record"),
]


def curves(rows: list[dict[str, Any]], benchmark: str, pattern: str, unit: str) -> dict[str, list[tuple[int, float]]]:
    """Way to its points, openpali first."""
    found: dict[str, list[tuple[int, float]]] = {"openpali": []}
    for row in rows:
        place = re.fullmatch(pattern, row["case"])
        if row["benchmark"] == benchmark and row["unit"] == unit and place:
            found.setdefault(row["against"], []).append((int(place[1]), row["theirs"]))
            found["openpali"].append((int(place[1]), row["ours"]))
    return {name: sorted(set(points)) for name, points in found.items()}


def draw() -> None:
    """Write the figure."""
    rows = [json.loads(line) for line in RESULTS.read_text("utf-8").splitlines()]
    figure, axes = plt.subplots(1, len(PANELS), figsize=(15, 3.6), layout="constrained")
    for axis, (title, benchmark, pattern, unit, name) in zip(axes, PANELS):
        found = curves(rows, benchmark, pattern, unit)
        for way, points in found.items():
            axis.plot(*zip(*points), marker="o", label=way, linewidth=2.5 if way == "openpali" else 1.2)
        places = sorted({place for points in found.values() for place, _ in points})
        axis.set(title=title, xlabel=name, ylabel=unit, xscale="log", yscale="log")
        axis.set_xticks(places, [f"{place:,}" for place in places], rotation=20)
        axis.minorticks_off()
        axis.legend(fontsize="small")
    figure.savefig(FIGURE, dpi=90)
    print(f"{FIGURE}: {FIGURE.stat().st_size:,} bytes")


if __name__ == "__main__":
    draw()
