"""Scenes composed from emoji drawings, with exact boxes, masks, counts, colours, positions and captions.

A scene is a pure function of (seed, split, index): two processes, or the same run resumed, see the same images,
and no two splits share a scene.
"""

import math
import random
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openpali.data.masks.objects import reading_order
from openpali.data.sources.builtin.backgrounds import background
from openpali.data.sources.builtin.drawings import (
    CREDITS,
    Drawing,
    concept_chars,
    default_cache_dir,
    load_drawing,
    raster_for,
)
from openpali.data.sources.builtin.phrases import LANGUAGES, caption
from openpali.data.sources.builtin.placement import Placed, grid_position, mask_box, place_all, write_all

SPLITS = ("train", "validation", "test")

_COPY = 0.3
_LARGE = 0.64  # side of a large thing, as a share of the image
_SMALLEST, _SMALLEST_WITH_WORDS, _MOST, _MOST_WORDS = 32, 48, 9, 5


class EmojiScenes:
    """The built-in images, as a source of records.

    A record holds `id`, `image` (PIL RGB), `objects`, `words`, `captions` (language to text) and `absent`
    (two concepts that are not in the scene). An object holds `concept` (English name), `names` (language to name),
    `box` and `mask` (`bool[H, W]`) of its visible pixels, `visible` (their share of the drawing), `colour` (English
    key or None) and `position` (English key). `groups` has labels for scores by group: the number of `things`, and
    `size` and `colour` of the only one.
    Objects and words come in reading order. `credits` is due wherever the images are shown.
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
        words: bool | tuple[int, int] = False,
        concept_split: str = "seen",
        cache_dir: str | Path | None = None,
        aspect: tuple[float, float] | None = None,
    ) -> None:
        """Set the options; drawings are rasterised on first use and cached in `cache_dir`.

        Args:
            split: train, validation or test.
            size: side of the images in pixels.
            concepts: number of concepts, from the start of the fixed list, the most distinct first.
            objects: minimum and maximum of objects in a scene, with repetitions.
            length: number of scenes.
            seed: another seed gives other scenes.
            words: fewest and most words that are written on an image; true for one to three, false for none.
            concept_split: `seen`, or `held_out` for concepts that are never used in training.
            cache_dir: folder for rasterised drawings; by default in the user's cache folder.
            aspect: smallest and largest ratio of width to height, drawn for each scene; squares when left out. A scene
                has the area of a square of `size`.
        """
        fewest, most = objects
        if split not in SPLITS:
            raise ValueError(f"split is one of {', '.join(SPLITS)}, not {split!r}.")
        written = word_range(words)
        if not 0 <= fewest <= most <= _MOST or (most == 0 and written[0] == 0):
            raise ValueError(
                f"objects={list(objects)}: give fewest and most, from 0 to {_MOST}, with most at least 1."
            )
        smallest = _SMALLEST_WITH_WORDS if written[1] else _SMALLEST
        if size < smallest or length < 1:
            raise ValueError(f"size={size}, length={length}: size is at least {smallest} and length at least 1.")
        self.aspect = aspect_range(aspect, size, smallest)
        self.split, self.size, self.objects, self.length = split, size, (fewest, most), length
        self.seed, self.words, self.concept_split = seed, written, concept_split
        self.cache_dir = Path(cache_dir) if cache_dir is not None else default_cache_dir()
        self._chars = concept_chars(concept_split, concepts)
        # other options give other ids, so that a report can hold images of several sources
        named = words if isinstance(words, bool) else written
        shape = () if self.aspect is None else (self.aspect,)
        look = repr((size, concepts, (fewest, most), named, concept_split, *shape)).encode()
        self._prefix = f"emoji-{split}-{seed}-{zlib.crc32(look):08x}"
        if concepts < most + 2:
            raise ValueError(f"concepts={concepts}: scenes of up to {most} objects need at least {most + 2}.")

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.length:
            raise IndexError(f"scene {index} of {self.length}")
        rng = random.Random(f"openpali/{self.seed}/{self.split}/{index}")
        image = background(self.size if self.aspect is None else sides_of(self.aspect, self.size, rng), rng)
        chosen = self._choose(rng)
        placed = place_all(image, [self._drawing(char) for char in chosen], rng)
        placed, words = write_all(image, placed, rng, self.words) if self.words[1] else (placed, [])
        objects = sorted((_describe(item) for item in placed), key=reading_order)
        others = [char for char in self._chars if char not in chosen]
        return {
            "id": f"{self._prefix}-{index}",
            "image": image,
            "objects": objects,
            "words": words,
            "captions": {language: caption(_counts(objects, language), language) for language in LANGUAGES},
            "absent": [_naming(self._drawing(char)) for char in rng.sample(others, 2)],
            "groups": scene_groups(objects),
        }

    def rewritten(self, record: dict[str, Any]) -> dict[str, Any]:
        """A record with positions, reading order and captions recomputed from its objects."""
        placed = [item | {"position": grid_position(item["box"])} for item in record["objects"]]
        objects = sorted(placed, key=reading_order)
        captions = {language: caption(_counts(objects, language), language) for language in LANGUAGES}
        return record | {"objects": objects, "captions": captions}

    @property
    def concepts(self) -> list[dict[str, Any]]:
        """`concept`, `names` and `colour` of every concept that can appear, in the fixed order."""
        return [_naming(self._drawing(char)) for char in self._chars]

    def _drawing(self, char: str) -> Drawing:
        return load_drawing(char, self.cache_dir, raster_for(self.size))

    def _choose(self, rng: random.Random) -> list[str]:
        """Emoji of the scene; each after the first may repeat an earlier one, for counts above one."""
        chosen: list[str] = []
        for _ in range(rng.randint(*self.objects)):
            if chosen and rng.random() < _COPY:
                chosen.append(rng.choice(chosen))
            else:
                chosen.append(rng.choice([char for char in self._chars if char not in chosen]))
        return chosen


def aspect_range(aspect: Sequence[float] | None, size: int, smallest: int) -> tuple[float, float] | None:
    """Smallest and largest ratio of width to height, checked; None for squares."""
    if aspect is None:
        return None
    if len(aspect) != 2 or not 0 < aspect[0] <= aspect[1]:
        raise ValueError(f"aspect={list(aspect)}: give the smallest and the largest ratio of width to height.")
    short = size / math.sqrt(max(aspect[1], 1 / aspect[0]))
    if short < smallest:
        raise ValueError(
            f"size={size}, aspect={list(aspect)}: scenes would be {short:.0f} pixels narrow, and need {smallest}."
        )
    return float(aspect[0]), float(aspect[1])


def sides_of(aspect: tuple[float, float], size: int, rng: random.Random) -> tuple[int, int]:
    """Width and height of a scene: a ratio, as often above as below the middle one, and the area of a square."""
    root = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])) / 2)
    return round(size * root), round(size / root)


def word_range(words: bool | Sequence[int]) -> tuple[int, int]:
    """Fewest and most words of an image."""
    if isinstance(words, bool):
        return (1, 3) if words else (0, 0)
    if len(words) != 2 or not 0 <= words[0] <= words[1] <= _MOST_WORDS:
        raise ValueError(f"words={list(words)}: give fewest and most, from 0 to {_MOST_WORDS}.")
    return words[0], words[1]


def scene_groups(objects: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Labels of a scene, for scores by group: number of things; colour and size of the only one."""
    if len(objects) != 1:
        return {"things": str(len(objects))}
    (item,) = objects
    box = item["box"]
    size = "large" if max(box.x1 - box.x0, box.y1 - box.y0) >= _LARGE else "small"
    colour = {"colour": item["colour"]} if item["colour"] else {}
    return {"things": "1", "size": size} | colour


def _describe(item: Placed) -> dict[str, Any]:
    box = mask_box(item.visible, item.drawing.concept)
    share = float(item.visible.sum() / item.full)
    place = {"box": box, "mask": item.visible, "position": grid_position(box), "visible": share}
    return _naming(item.drawing) | place


def _naming(drawing: Drawing) -> dict[str, Any]:
    return {"concept": drawing.concept, "names": drawing.names, "colour": drawing.colour}


def _counts(objects: list[dict[str, Any]], language: str) -> dict[str, int]:
    names = [item["names"][language] for item in objects]
    return {name: names.count(name) for name in dict.fromkeys(names)}
