"""Generate unambiguous English referring expressions from names, colours and boxes.

"dog" for a single dog; "the red apple" and "the dog on the left" where they fit one object only. Positions need a
margin: an object that is hardly left of the middle, or of another dog, is not "on the left".
"""

from collections.abc import Sequence
from typing import Any

from openpali.data.example import Box

PLACES = {
    "top left": "at the top left",
    "top": "at the top",
    "top right": "at the top right",
    "left": "on the left",
    "center": "in the center",
    "right": "on the right",
    "bottom left": "at the bottom left",
    "bottom": "at the bottom",
    "bottom right": "at the bottom right",
}
"""English keys of positions (`openpali.data.sources.builtin.phrases.POSITIONS`), and how they end an expression."""

_APART = 0.2
_SIDE = {"left": (0, -1), "right": (0, 1), "top": (1, -1), "bottom": (1, 1)}


def expressions(item: dict[str, Any], objects: Sequence[dict[str, Any]], crowds: Sequence[str] = ()) -> list[str]:
    """All expressions for an object.

    Args:
        item: one of `objects`, with `names`, `box` and optional `colour` (English, None without a dominant one).
        objects: all objects of the image.
        crowds: names of things that a crowd annotation covers.

    Returns:
        Expressions, the name alone first if it suffices; empty where none is unambiguous.
    """
    name = item["names"]["en"]
    if name in crowds:
        return []
    others = [other for other in objects if other is not item]
    same = [other for other in others if other["names"]["en"] == name]
    found = [] if same else [name]
    found += _by_colour(item, others, same, name)
    places = [place for place in PLACES if is_at(place, item["box"], [other["box"] for other in same])]
    return found + [f"the {name} {PLACES[place]}" for place in places]


def _by_colour(item: dict[str, Any], others: list[dict[str, Any]], same: list[dict[str, Any]], name: str) -> list[str]:
    """The name or "thing" with the colour, where all other candidates have a different dominant colour."""
    colour = item.get("colour")
    if colour is None:
        return []
    found = []
    for word, candidates in ((name, same), ("thing", others)):
        if all(other.get("colour") not in (None, colour) for other in candidates):
            found.append(f"the {colour} {word}")
    return found


def is_at(place: str, box: Box, others: Sequence[Box]) -> bool:
    """Whether a box is at a place (a key of `PLACES`), with a margin over all other objects.

    For a single direction the object is in that half, and each other object is at least a fifth of the image less far
    that way. For a corner or the center the object is well inside, and the others are well outside.
    """
    x, y = _middle(box)
    if place in _SIDE:
        axis, sign = _SIDE[place]
        here = sign * ((x, y)[axis] - 0.5)
        return here > 0.1 and all(here - sign * (_middle(other)[axis] - 0.5) >= _APART for other in others)
    return _depth(place, x, y) > 0.1 and all(_depth(place, *_middle(other)) < -0.1 for other in others)


def _depth(place: str, x: float, y: float) -> float:
    """How far inside a corner's quarter, or the middle half of each side, a point is; negative outside."""
    if place == "center":
        return 1 / 4 - max(abs(x - 0.5), abs(y - 0.5))
    row, column = place.split()
    return min(sign * (value - 0.5) for value, (_, sign) in ((y, _SIDE[row]), (x, _SIDE[column])))


def _middle(box: Box) -> tuple[float, float]:
    return (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
