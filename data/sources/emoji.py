"""Scenes composed from emoji drawings, with exact boxes, masks, counts, colours, positions and captions.

A scene is a pure function of (seed, split, index): two processes, or the same run resumed, see the same pictures,
and no index of one split can produce the scene of another.
"""

import random
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from openpali.data.example import Box
from openpali.data.sources.backgrounds import background
from openpali.data.sources.drawings import (
    CREDITS,
    Drawing,
    concept_chars,
    default_cache_dir,
    load_drawing,
)
from openpali.data.sources.phrases import LANGUAGES, POSITIONS, caption
from openpali.data.sources.written_words import WORDS, draw_word

SPLITS = ("train", "validation", "test")

_VISIBLE = 0.7
_COPY = 0.3
_TRIES = 40
_SMALLEST, _MOST = 32, 9


class EmojiScenes:
    """The built-in pictures, as a source of records.

    A record holds `id`, `image` (PIL RGB), `objects`, `words`, `captions` (language to text) and `absent`
    (two concepts that are not in the scene). An object holds `concept` (English name), `names` (language to name),
    `box` and `mask` (`bool[H, W]`) of its visible pixels, `colour` (English key or None) and `position` (English key).
    Objects and words come in reading order.
    """

    name = "emoji"
    credits = CREDITS

    def __init__(
        self,
        split: str = "train",
        size: int = 64,
        concepts: int = 32,
        objects: tuple[int, int] = (1, 2),
        length: int = 20_000,
        seed: int = 0,
        words: bool = False,
        concept_split: str = "seen",
        cache_dir: str | Path | None = None,
    ) -> None:
        """Describe the scenes; drawings are rasterised on first use and kept in `cache_dir`.

        Args:
            split: train, validation or test.
            size: side of the pictures in pixels.
            concepts: how many of the fixed list of concepts appear, the most distinct first.
            objects: fewest and most objects in a scene, copies counted.
            length: number of scenes.
            seed: another seed gives other scenes.
            words: write one to three words on each picture.
            concept_split: `seen`, or `held_out` for concepts that training never shows.
            cache_dir: folder for rasterised drawings; by default in the user's cache folder.
        """
        fewest, most = objects
        if split not in SPLITS:
            raise ValueError(f"split is one of {', '.join(SPLITS)}, not {split!r}.")
        if not 0 <= fewest <= most <= _MOST or (most == 0 and not words):
            raise ValueError(f"objects={list(objects)}: give fewest and most, from 0 to {_MOST}, with most at least 1.")
        if size < _SMALLEST or length < 1:
            raise ValueError(f"size={size}, length={length}: size is at least {_SMALLEST} and length at least 1.")
        self.split, self.size, self.objects, self.length = split, size, (fewest, most), length
        self.seed, self.words, self.concept_split = seed, words, concept_split
        self.cache_dir = Path(cache_dir) if cache_dir is not None else default_cache_dir()
        self._chars = concept_chars(concept_split, concepts)
        if concepts < most + 2:
            raise ValueError(f"concepts={concepts}: scenes of up to {most} objects need at least {most + 2}.")

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.length:
            raise IndexError(f"scene {index} of {self.length}")
        rng = random.Random(f"openpali/{self.seed}/{self.split}/{index}")
        image = background(self.size, rng)
        chosen = self._choose(rng)
        placed = _place_all(image, [self._drawing(char) for char in chosen], rng)
        words = _write_all(image, placed, rng) if self.words else []
        objects = sorted((_describe(drawing, mask) for drawing, mask in placed), key=_reading_order)
        others = [char for char in self._chars if char not in chosen]
        return {
            "id": f"emoji-{self.split}-{self.seed}-{index}",
            "image": image,
            "objects": objects,
            "words": words,
            "captions": {language: caption(_counts(objects, language), language) for language in LANGUAGES},
            "absent": [_naming(self._drawing(char)) for char in rng.sample(others, 2)],
        }

    @property
    def concepts(self) -> list[dict[str, Any]]:
        """`concept`, `names` and `colour` of every concept that can appear, in the fixed order."""
        return [_naming(self._drawing(char)) for char in self._chars]

    def _drawing(self, char: str) -> Drawing:
        return load_drawing(char, self.cache_dir)

    def _choose(self, rng: random.Random) -> list[str]:
        """Emoji of the scene; each after the first may repeat an earlier one, so that counting has a point."""
        chosen: list[str] = []
        for _ in range(rng.randint(*self.objects)):
            if chosen and rng.random() < _COPY:
                chosen.append(rng.choice(chosen))
            else:
                chosen.append(rng.choice([char for char in self._chars if char not in chosen]))
        return chosen


def _place_all(
    image: Image.Image, drawings: list[Drawing], rng: random.Random
) -> list[tuple[Drawing, np.ndarray]]:
    """Paste drawings one over the other; returns each with the mask of what stays visible."""
    widest, narrowest = _sides(len(drawings), image.width)
    placed: list[tuple[Drawing, np.ndarray, int]] = []
    for drawing in drawings:
        side = rng.uniform(narrowest, widest)
        for attempt in range(_TRIES):
            sprite = _pose(drawing.image, max(round(side), 8), rng)
            corner = tuple(rng.randint(0, max(image.width - extent, 0)) for extent in sprite.size)
            mask = _solid(sprite, corner, image.width)
            left = [old & ~mask for _, old, _ in placed]
            if all(now.sum() >= _VISIBLE * full for now, (_, _, full) in zip(left, placed)):
                placed = [(what, now, full) for now, (what, _, full) in zip(left, placed)]
                placed.append((drawing, mask, int(mask.sum())))
                image.paste(sprite, corner, sprite)
                break
            if attempt % 4 == 3:
                side *= 0.85
    return [(drawing, mask) for drawing, mask, _ in placed]


def _sides(count: int, size: int) -> tuple[float, float]:
    """Largest and smallest longer side of a drawing, in pixels, for so many objects in a picture."""
    widest = {0: 0.9, 1: 0.9, 2: 0.6, 3: 0.48}.get(count, 0.9 / max(count, 1) ** 0.5)
    return widest * size, 0.6 * widest * size


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


def _solid(sprite: Image.Image, corner: tuple[int, ...], size: int) -> np.ndarray:
    """`bool[size, size]`: where a pasted sprite covers more than half of a pixel."""
    mask = np.zeros((size, size), bool)
    left, top = corner
    mask[top : top + sprite.height, left : left + sprite.width] = np.asarray(sprite.getchannel("A")) > 127
    return mask


def _write_all(
    image: Image.Image, placed: list[tuple[Drawing, np.ndarray]], rng: random.Random
) -> list[dict[str, Any]]:
    """Write one to three words that hide no object and no other word; masks in `placed` lose what ink covers."""
    fulls = [mask.sum() for _, mask in placed]
    taken = np.zeros((image.width, image.width), bool)
    words = []
    for text in rng.sample(WORDS, rng.randint(1, 3)):
        for _ in range(_TRIES):
            ink, picture = draw_word(text, image.width, rng)
            left = [mask & ~ink for _, mask in placed]
            free = not (_filled(ink) & taken).any()
            if free and all(now.sum() >= _VISIBLE * full for now, full in zip(left, fulls)):
                image.paste(picture, (0, 0), picture)
                placed[:] = [(what, now) for now, (what, _) in zip(left, placed)]
                taken |= _filled(ink)
                words.append({"text": text, "box": mask_box(ink, text)})
                break
    return sorted(words, key=_reading_order)


def _filled(mask: np.ndarray) -> np.ndarray:
    """The bounding rectangle of a mask, filled."""
    rows, columns = mask.any(axis=1).nonzero()[0], mask.any(axis=0).nonzero()[0]
    full = np.zeros_like(mask)
    full[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return full


def _describe(drawing: Drawing, mask: np.ndarray) -> dict[str, Any]:
    box = mask_box(mask, drawing.concept)
    return _naming(drawing) | {"box": box, "mask": mask, "position": grid_position(box)}


def _naming(drawing: Drawing) -> dict[str, Any]:
    return {"concept": drawing.concept, "names": drawing.names, "colour": drawing.colour}


def mask_box(mask: np.ndarray, label: str = "") -> Box:
    """The tightest box around `bool[H, W]`, normalised."""
    rows, columns = mask.any(axis=1).nonzero()[0], mask.any(axis=0).nonzero()[0]
    height, width = mask.shape
    return Box(columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height, label)


def grid_position(box: Box) -> str:
    """English key of the cell of a 3 by 3 grid that holds the centre of a box."""
    column = min(int(3 * (box.x0 + box.x1) / 2), 2)
    row = min(int(3 * (box.y0 + box.y1) / 2), 2)
    return POSITIONS[3 * row + column]


def _reading_order(item: dict[str, Any]) -> tuple[int, float]:
    """Rows of a third of the picture from top to bottom, from left to right within a row."""
    box: Box = item["box"]
    return min(int(3 * (box.y0 + box.y1) / 2), 2), box.x0


def _counts(objects: list[dict[str, Any]], language: str) -> dict[str, int]:
    names = [item["names"][language] for item in objects]
    return {name: names.count(name) for name in dict.fromkeys(names)}
