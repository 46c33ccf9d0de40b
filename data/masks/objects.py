"""Select the `objects` of a record for a prompt, from any source.

An object has `names` (language to name) and `box`; it may have `mask` (an array, a `LazyMask` or RLE) and `sentences`
(language to a list of referring expressions). A record's `crowds` are names of things that a crowd annotation covers:
a prompt for them would have no complete answer.
"""

import random
from collections.abc import Sequence
from typing import Any

from openpali.data.example import Box
from openpali.data.masks.rle import mask_array
from openpali.modeling.location_tokens import LocatedBox

ORDERS = ("reading", "shuffled")

Objects = list[dict[str, Any]]


def located(box: Box) -> LocatedBox:
    """The box in the order of location tokens."""
    return LocatedBox(box.y0, box.x0, box.y1, box.x1, box.label)


def box_dict(box: Box) -> dict[str, Any]:
    """The box in the form of the metrics."""
    return {"box": [box.x0, box.y0, box.x1, box.y1], "label": box.label}


def labelled(box: Box, label: str) -> Box:
    """The box with another label."""
    return Box(box.x0, box.y0, box.x1, box.y1, label)


def reading_order(item: dict[str, Any]) -> tuple[int, float]:
    """A key for `sorted`: thirds of the image from top to bottom, then from left to right."""
    box: Box = item["box"]
    return min(int(3 * (box.y0 + box.y1) / 2), 2), box.x0


def check_order(order: str) -> None:
    """Raise ValueError for an unknown order."""
    if order not in ORDERS:
        raise ValueError(f"order is one of {', '.join(ORDERS)}, not {order!r}")


def choose_things(
    objects: Objects,
    crowds: Sequence[str],
    rng: random.Random,
    language: str,
    most_things: int = 1,
    things: Sequence[str] = (),
    most_boxes: int | None = None,
    order: str = "reading",
) -> tuple[list[str], Objects]:
    """Random things of an image, and all objects of these.

    Args:
        objects: of a record.
        crowds: names to leave out.
        rng: of the random choices.
        language: of the names.
        most_things: maximum of different things.
        things: names to choose from; all when empty.
        most_boxes: things with more objects than this are left out.
        order: of the objects, `reading` or `shuffled`.

    Returns:
        Names in the reading order of their first objects, and objects; both empty when nothing is left.
    """
    objects = sorted(objects, key=reading_order)
    names = [item["names"][language] for item in objects]
    known = [
        name
        for name in dict.fromkeys(names)
        if name not in crowds
        and (not things or name in things)
        and (most_boxes is None or names.count(name) <= most_boxes)
    ]
    if not known:
        return [], []
    wanted = set(rng.sample(known, rng.randint(1, min(most_things, len(known)))))
    chosen = [item for item, name in zip(objects, names) if name in wanted]
    if order == "shuffled":
        rng.shuffle(chosen)
    return [name for name in known if name in wanted], chosen


def all_things(
    objects: Objects, left_out: Sequence[str], language: str, classes: Sequence[str]
) -> tuple[list[str], Objects]:
    """Names of all classes except some, and the objects of these names in reading order."""
    names = [name for name in classes if name not in left_out]
    return names, [item for item in sorted(objects, key=reading_order) if item["names"][language] in names]


def region_texts(item: dict[str, Any], language: str) -> list[str]:
    """The texts of an object: its sentences if it has any, else its name."""
    if item.get("sentences"):
        return list(item["sentences"].get(language, ()))
    return [item["names"][language]]


def draw_region_text(
    objects: Objects, language: str, rng: random.Random
) -> tuple[dict[str, Any], list[str], str] | None:
    """A random object that has texts in a language, its texts, and one of them; None when there is no such object."""
    found = [(item, texts) for item in objects if (texts := region_texts(item, language))]
    if not found:
        return None
    item, texts = rng.choice(found)
    return item, texts, rng.choice(texts)


def with_masks(objects: Objects) -> Objects:
    """Objects that have a mask."""
    return [item for item in objects if item.get("mask") is not None]


def visible(objects: Objects) -> Objects:
    """Objects whose mask has a pixel: a polygon may be thinner than one."""
    return [item for item in objects if mask_array(item["mask"]).any()]
