"""Place drawings and words on a scene, at random places where nothing is hidden too much."""

import math
import random
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from openpali.data.example import Box
from openpali.data.masks.rle import mask_box
from openpali.data.sources.builtin.drawings import Drawing
from openpali.data.sources.builtin.phrases import POSITIONS
from openpali.data.sources.builtin.written_words import WORDS, draw_word

# minimum visible share of a drawing, and maximum share of the smaller of two boxes inside the other
_VISIBLE, _OVERLAP = 0.7, 0.35
_TRIES = 40


class Placed(NamedTuple):
    """A drawing on the image: `visible: bool[H, W]`, and number of its pixels before others hid some."""

    drawing: Drawing
    visible: np.ndarray
    full: int


def place_all(image: Image.Image, drawings: list[Drawing], rng: random.Random) -> list[Placed]:
    """Paste drawings over each other so that each stays visible."""
    widest, narrowest = _sides(len(drawings), image.size)
    placed: list[Placed] = []
    for drawing in drawings:
        side = rng.uniform(narrowest, widest)
        for attempt in range(_TRIES):
            sprite = _pose(drawing.image, max(round(side), 8), rng)
            corner = (_start(image.width, sprite.width, rng), _start(image.height, sprite.height, rng))
            mask = _solid(sprite, corner, image.size)
            left = _hide(placed, mask)
            if left is not None and all(_box_overlap(mask, old.visible) <= _OVERLAP for old in placed):
                placed = [*left, Placed(drawing, mask, int(mask.sum()))]
                image.paste(sprite, corner, sprite)
                break
            if attempt % 4 == 3:
                side *= 0.85
    return placed


def _hide(placed: list[Placed], mask: np.ndarray) -> list[Placed] | None:
    """The drawings behind a mask, with what stays visible; None when it would hide too much of one."""
    left = [old._replace(visible=old.visible & ~mask) for old in placed]
    return left if all(old.visible.sum() >= _VISIBLE * old.full for old in left) else None


def _start(whole: int, part: int, rng: random.Random) -> int:
    return rng.randint(0, max(whole - part, 0))


def _sides(count: int, size: tuple[int, int]) -> tuple[float, float]:
    """Largest and smallest longer side of a drawing in pixels, for a number of objects on an image."""
    widest = 0.9 * min(size)
    if count > 1:
        # of a square of the same area
        widest = min(widest, 0.85 * math.sqrt(size[0] * size[1]) / math.sqrt(count))
    return widest, 0.55 * widest


def _pose(image: Image.Image, side: int, rng: random.Random) -> Image.Image:
    """A drawing turned by up to 15 degrees, perhaps mirrored, and scaled to a longer side of `side` pixels."""
    scale = 2 * side / max(image.size)
    if scale < 1:
        image = image.resize(_scaled(image.size, scale), Image.Resampling.BOX, reducing_gap=None)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = image.rotate(rng.uniform(-15, 15), Image.Resampling.BILINEAR, expand=True)
    return image.resize(_scaled(image.size, side / max(image.size)), Image.Resampling.BILINEAR)


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)


def _solid(sprite: Image.Image, corner: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """`bool[H, W]`: where a pasted sprite covers more than half of a pixel."""
    mask = np.zeros(size[::-1], bool)
    left, top = corner
    mask[top : top + sprite.height, left : left + sprite.width] = np.asarray(sprite.getchannel("A")) > 127
    return mask


def write_all(
    image: Image.Image, placed: list[Placed], rng: random.Random, count: tuple[int, int] = (1, 3)
) -> tuple[list[Placed], list[dict[str, Any]]]:
    """Write words that hide no object and no other word.

    Args:
        image: changed in place.
        placed: objects on it.
        rng: source of chance.
        count: fewest and most words; a word without a free place is left out.

    Returns:
        The visible objects and the words.
    """
    taken = np.zeros((image.height, image.width), bool)
    words = []
    for text in rng.sample(WORDS, rng.randint(*count)):
        for _ in range(_TRIES):
            ink, letters = draw_word(text, image.size, rng)
            left = _hide(placed, ink)
            if left is not None and not (_filled(ink) & taken).any():
                image.paste(letters, (0, 0), letters)
                placed = left
                taken |= _filled(ink)
                words.append({"text": text, "box": mask_box(ink, text)})
                break
    return placed, _in_lines(words)


def _in_lines(words: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Words sorted by lines. A word is on the line of a higher word when its middle is above that word's bottom."""
    lines: list[list[dict[str, Any]]] = []
    for word in sorted(words, key=lambda word: word["box"].y0 + word["box"].y1):
        box = word["box"]
        if not lines or (box.y0 + box.y1) / 2 >= lines[-1][0]["box"].y1:
            lines.append([])
        lines[-1].append(word)
    return [word for line in lines for word in sorted(line, key=lambda word: word["box"].x0)]


def _filled(mask: np.ndarray) -> np.ndarray:
    """The bounding rectangle of a mask, filled."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    full = np.zeros_like(mask)
    full[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return full


def _box_overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Share of the smaller bounding box that lies inside the other one."""
    a, b = mask_box(one), mask_box(other)
    width = max(min(a.x1, b.x1) - max(a.x0, b.x0), 0.0)
    height = max(min(a.y1, b.y1) - max(a.y0, b.y0), 0.0)
    smaller = min((box.x1 - box.x0) * (box.y1 - box.y0) for box in (a, b))
    return width * height / smaller


def grid_position(box: Box) -> str:
    """English key of the cell of a 3 by 3 grid that holds the centre of a box."""
    column = min(int(3 * (box.x0 + box.x1) / 2), 2)
    row = min(int(3 * (box.y0 + box.y1) / 2), 2)
    return POSITIONS[3 * row + column]
