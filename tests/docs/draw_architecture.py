"""Draw docs/figures/architecture.svg from the imports: the rooms of docs/architecture.md in five layers.

    python tests/docs/draw_architecture.py

Inside a layer an arrow is an import, left to right. Arrows that follow from others (a → c beside a → b → c) are left
out. The data of the drawing are in its description, where a test compares them with the imports.
"""

import json
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.sax.saxutils import unescape

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrow, FancyBboxPatch

sys.path.insert(0, str(Path(__file__).parents[1]))

from test_house import CHECKOUT, MODULES, ORDER, ROOMS, imported, place  # noqa: E402

DRAWING = CHECKOUT / "docs" / "figures" / "architecture.svg"
LAYERS = ROOMS[::-1]
WIDTH, PX = 900, 1 / 96  # pixels of the drawing, inches of one
BOX, ROW, EDGE, HEAD, GAP = 34, 50, 12, 24, 26  # pixels: height of a box, pitch of rows, margin, title, between layers
WIDEST, WIDEST_PITCH, LANE = 108, 200, 6
Arrow = tuple[str, str]
Place = tuple[int, int]  # column and row


def graph() -> dict[str, Any]:
    """`rooms` of each layer by its name, and `arrows` between rooms of one layer, all sorted."""
    names = [", ".join(row) for row in ORDER]
    rooms = {layer: [name for name in names if name.split("/")[0] == layer] for layer in LAYERS}
    files = {name: imported(name, (CHECKOUT / name).read_text("utf-8")) for name in MODULES}
    pairs = {(names[place(name)], names[place(one)]) for name, found in files.items() for one in found}
    inside = {(a, b) for a, b in pairs if a != b and a.split("/")[0] == b.split("/")[0]}
    return {"rooms": rooms, "arrows": [list(arrow) for arrow in sorted(thinned(inside))]}


def thinned(arrows: set[Arrow]) -> set[Arrow]:
    """Arrows without those that lead where others lead as well: the transitive reduction."""
    after: dict[str, set[str]] = {}
    for a, b in arrows:
        after.setdefault(a, set()).add(b)

    def reached(a: str) -> set[str]:
        return {c for b in after.get(a, ()) for c in {b} | reached(b)}

    return {(a, b) for a, b in arrows if not any(b in reached(c) for c in after[a] - {b})}


def columns(rooms: list[str], arrows: list[Arrow]) -> dict[str, int]:
    """The column of each room, so that arrows lead right; what imports nothing of the layer is at the right end."""
    after = {room: [b for a, b in arrows if a == room] for room in rooms}

    def height(room: str) -> int:
        return max((1 + height(one) for one in after[room]), default=0)

    return {room: max(map(height, rooms)) - height(room) for room in rooms}


def arranged(rooms: list[str], arrows: list[Arrow]) -> dict[str, Place]:
    """Column and row of each room: the best of some hundred beginnings, each improved room by room."""
    column, rng = columns(rooms, arrows), random.Random(0)
    # one row more than the fullest column has, for arrows that go around
    rows = range(1 + max(list(column.values()).count(number) for number in column.values()))

    def cost(row: dict[str, int]) -> float:
        places = {room: (column[room], row[room]) for room in rooms}
        twice = len(rooms) - len(set(places.values()))
        routes = [route(places, arrow) for arrow in arrows]
        runs = [(step, arrow) for (_, taken), arrow in zip(routes, arrows) for step in taken]
        shared = sum(one == two and a[1] != b[1] for i, (one, a) in enumerate(runs) for two, b in runs[:i])
        steps = sum(abs(row[a] - row[b]) for a, b in arrows)
        return 1000 * twice + 100 * sum(hit for hit, _ in routes) + 30 * shared + steps + max(row.values()) * 3

    best: tuple[float, dict[str, int]] | None = None
    for _ in range(100):
        row = {room: rng.choice(rows) for room in rooms}
        before = None
        while before != (before := cost(row)):
            for room in rooms:
                row[room] = min(rows, key=lambda number: (cost(row | {room: number}), number))  # noqa: B023
            if cost(row) == before:
                break
        if best is None or before < best[0]:
            best = before, row
    assert best is not None
    assert best[0] < 100, f"boxes or arrows of {rooms} lie over each other: try more beginnings"
    return {room: (column[room], best[1][room]) for room in rooms}


def route(places: dict[str, Place], arrow: Arrow) -> tuple[int, list[Place]]:
    """How many boxes an arrow runs through, and the places that it passes, on the row of its end or else its start."""
    (x0, y0), (x1, y1) = (places[room] for room in arrow)
    taken = set(places.values())
    ways = [[(x, y) for x in range(x0 + 1, x1)] for y in (y1, y0)]
    return min(((sum(one in taken for one in way), way) for way in ways), key=lambda found: found[0])


def label(room: str) -> str:
    """The name below its layer, in lines that fit into a box."""
    layer = room.split("/")[0]
    if room == f"{layer}/":
        return f"{layer}/*.py"
    names = [name.removeprefix(f"{layer}/") for name in room.split(", ")]
    if len(names) > 1:
        return "\n".join(names)
    return names[0] if len(names[0]) < 15 else re.sub(r"/(?=.)", "/\n", names[0])


def draw(data: dict[str, Any]) -> Figure:
    """The drawing, WIDTH pixels wide."""
    layers = {}
    for layer, rooms in data["rooms"].items():
        arrows = [(a, b) for a, b in data["arrows"] if a in rooms]
        places = arranged(rooms, arrows)
        tallest = max(label(room).count("\n") for room in rooms)
        layers[layer] = places, arrows, HEAD + ROW * (1 + max(y for _, y in places.values())) + 9 * max(tallest - 1, 0)
    height = sum(tall for *_, tall in layers.values()) + GAP * (len(layers) - 1) + 2 * EDGE
    figure = Figure(figsize=(WIDTH * PX, height * PX), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(height, 0))
    axes.set_axis_off()
    top = float(EDGE)
    for number, (layer, (places, arrows, tall)) in enumerate(layers.items()):
        draw_layer(axes, layer, places, arrows, (top, tall))
        top += tall
        if number < len(layers) - 1:
            shape: dict[str, Any] = {"width": 5, "head_width": 14, "head_length": 9, "length_includes_head": True}
            axes.add_patch(FancyArrow(WIDTH / 2, top + 3, 0, GAP - 6, color="black", **shape))
        top += GAP
    return figure


def draw_layer(
    axes: Any, layer: str, places: dict[str, Place], arrows: list[Arrow], extent: tuple[float, float]
) -> None:
    """A layer's frame, its title, boxes and arrows, from `extent[0]` down."""
    top, tall = extent
    frame: dict[str, Any] = {"boxstyle": "round,pad=0,rounding_size=6", "linewidth": 0.8}
    axes.add_patch(
        FancyBboxPatch((EDGE, top), WIDTH - 2 * EDGE, tall, facecolor="#f6f6f6", edgecolor="#999999", **frame)
    )
    axes.text(EDGE + 10, top + 13, f"{layer}/", size=10, weight="bold", va="center")
    across, down = (1 + max(numbers) for numbers in zip(*places.values()))
    pitch = min(WIDEST_PITCH, (WIDTH - 2 * EDGE) / across)
    wide, left, high = min(WIDEST, pitch - 20), (WIDTH - pitch * across) / 2, (tall - HEAD) / down
    middle = {room: (left + pitch * (x + 0.5), top + HEAD + high * (y + 0.5) - 4) for room, (x, y) in places.items()}
    ends = list(dict.fromkeys(b for _, b in arrows))
    for a, b in arrows:
        xs, ys = zip(*lines(places, middle, (a, b), wide, pitch, ends.index(b)))
        axes.plot(xs, ys, color="black", linewidth=0.9, solid_joinstyle="round", zorder=1)
        head: dict[str, Any] = {"width": 0, "head_width": 7, "head_length": 7, "length_includes_head": True}
        axes.add_patch(FancyArrow(xs[-1] - 8, ys[-1], 8, 0, color="black", linewidth=0, **head))
    for room, (x, y) in middle.items():
        high = max(BOX, 13 * (1 + label(room).count("\n")) + 6)
        axes.add_patch(
            FancyBboxPatch((x - wide / 2, y - high / 2), wide, high, facecolor="white", edgecolor="black", **frame)
        )
        axes.text(x, y, label(room), size=8.2, ha="center", va="center", linespacing=1.15)


def lines(
    places: dict[str, Place],
    middle: dict[str, tuple[float, float]],
    arrow: Arrow,
    wide: float,
    pitch: float,
    lane: int,
) -> Iterator[tuple[float, float]]:
    """Corners of an arrow. It changes its row in the gap before or behind what it passes, each end in its own lane."""
    (x0, y0), (x1, y1) = (middle[room] for room in arrow)
    _, way = route(places, arrow)
    late = bool(way) and way[0][1] == places[arrow[0]][1]
    turn = (x1 - pitch if late else x0) + pitch / 2 + LANE * (lane % 3 - 1)
    yield x0 + wide / 2, y0
    if y0 != y1:
        yield turn, y0
        yield turn, y1
    yield x1 - wide / 2, y1


def drawn() -> dict[str, Any]:
    """The data of the drawing that is there."""
    found = re.search(r"<dc:description>(.*?)</dc:description>", DRAWING.read_text("utf-8"), re.DOTALL)
    return json.loads(unescape(found[1], {"&quot;": '"'})) if found else {}


def main() -> None:
    """Write the drawing."""
    data = graph()
    # text stays text, and the same data make the same file
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "openpali", "font.family": "DejaVu Sans"}):
        draw(data).savefig(DRAWING, format="svg", metadata={"Date": None, "Description": json.dumps(data)})


if __name__ == "__main__":
    main()
