"""One drawing on a background, named in the 36 languages of Crossmodal-3600: pairs for contrastive training.

`make data36` builds the drawings. The test split with `style_split: held_out, gallery: true` shows each concept once,
in a drawing style that is never used in training: retrieval over it has the form of retrieval on Crossmodal-3600, 36
languages for one set of images. It is not Crossmodal-3600: it has no photographs, and names instead of sentences.
"""

import math
import random
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from openpali.data.masks.rle import mask_box
from openpali.data.sources.builtin.backgrounds import background
from openpali.data.sources.builtin.emoji import SPLITS
from openpali.data.sources.builtin.emoji36_folder import (
    HELD_OUT_STYLE,
    LANGUAGES,
    STYLES,
    Concept,
    archive,
    credits_of,
    default_folder,
    read_concepts,
    sprite,
)
from openpali.data.sources.builtin.placement import grid_position

_NARROWEST, _MIDDLE, _WIDEST = 0.4, 0.6, 0.9  # of the image's side
_TURN = 15  # degrees
_SMALLEST, _USUAL_LENGTH = 32, 20_000


class Emoji36:
    """Images of single drawings with names in 36 languages, as a source of records.

    An image is a pure function of (seed, split, index) and the options. Drawings are never mirrored, since a waxing
    moon would become a waning one.

    A record holds `id`, `image` (PIL RGB), `captions` (language to name), `keywords` (language to a list), `concept`
    (English name), `style`, `objects` (one, as of `EmojiScenes`), `words` (none) and `absent` (two other concepts).
    `credits` is due wherever the images are shown.
    """

    name = "emoji36"

    def __init__(
        self,
        split: str = "train",
        size: int = 64,
        length: int | None = None,
        seed: int = 0,
        style_split: str | None = None,
        styles: Sequence[str] | None = None,
        concept_split: str = "seen",
        concepts: int | None = None,
        languages: Sequence[str] = LANGUAGES,
        gallery: bool = False,
        folder: str | Path | None = None,
    ) -> None:
        """Set the options; drawings are read on first use.

        Args:
            split: train, validation or test.
            size: side of the images in pixels; at most 142 with drawings of 128 pixels.
            length: number of images, 20,000 by default; with `gallery` there is one for each concept.
            seed: another seed gives other images.
            style_split: `seen` (the default), three styles; or `held_out`, the fourth.
            styles: the styles themselves instead, some of openmoji, twemoji, fluent and noto.
            concept_split: `seen`, or `held_out` for the tenth of the concepts that is never used in training.
            concepts: number of concepts, all by default.
            languages: of captions, keywords and names of objects.
            gallery: image i shows concept i, so that each text has exactly one image.
            folder: output of `make data36`; by default `emoji36` in the user's cache folder.

        Raises:
            ValueError: an invalid option, or a missing or damaged folder.
        """
        if split not in SPLITS:
            raise ValueError(f"split is one of {', '.join(SPLITS)}, not {split!r}.")
        self.split, self.size, self.seed, self.gallery = split, size, seed, gallery
        self.languages = chosen_languages(languages)
        self.styles = chosen_styles(style_split, styles)
        self.folder = Path(folder).expanduser() if folder is not None else default_folder()
        self._rows = self._choose_rows(concept_split, concepts)
        self._check_size()
        if length is not None and (gallery or length < 1):
            raise ValueError(f"length={length}: at least 1, and left out with `gallery`, which has one per concept.")
        self.length = len(self._rows) if gallery else length or _USUAL_LENGTH
        self.credits = credits_of(self.styles)
        # other options give other ids, so that a report can hold images of several sources
        look = repr((size, self.styles, concept_split, len(self._rows), gallery)).encode()
        self._prefix = f"emoji36-{split}-{seed}-{zlib.crc32(look):08x}"

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.length:
            raise IndexError(f"image {index} of {self.length}")
        rng = random.Random(f"openpali/emoji36/{self.seed}/{self.split}/{index}")
        number = index if self.gallery else rng.randrange(len(self._rows))
        concept, style = self._concept(number), rng.choice(self.styles)
        image = background(self.size, rng)
        mask = self._draw(image, concept.code, style, rng)
        box = mask_box(mask, concept.concept)
        naming = _naming(concept, style)
        others = [other for other in rng.sample(range(len(self._rows)), 3) if other != number][:2]
        return {
            "id": f"{self._prefix}-{index}",
            "image": image,
            "captions": dict(concept.names),
            "keywords": dict(concept.keywords),
            "concept": concept.concept,
            "style": style,
            "objects": [naming | {"box": box, "mask": mask, "position": grid_position(box), "visible": 1.0}],
            "words": [],
            "absent": [_naming(self._concept(other), style) for other in others],
        }

    @property
    def concepts(self) -> list[dict[str, Any]]:
        """`concept`, `names` and `keywords` of every concept that can appear; `gallery` shows them in this order."""
        found = [self._concept(number) for number in range(len(self._rows))]
        return [{"concept": c.concept, "names": dict(c.names), "keywords": dict(c.keywords)} for c in found]

    def _concept(self, number: int) -> Concept:
        return read_concepts(self.folder, self.languages)[0][self._rows[number]]

    def _choose_rows(self, concept_split: str, concepts: int | None) -> list[int]:
        """Line numbers of the concepts, which keep a copy of this source for another process small."""
        if concept_split not in ("seen", "held_out"):
            raise ValueError(f"concept_split is 'seen' or 'held_out', not {concept_split!r}.")
        everything, _ = read_concepts(self.folder, self.languages)
        rows = [row for row, concept in enumerate(everything) if concept.split == concept_split]
        if not 3 <= (len(rows) if concepts is None else concepts) <= len(rows):
            raise ValueError(
                f"concepts={concepts}: the {concept_split} split has {len(rows)}; give 3 or more of them."
            )
        return rows[:concepts]

    def _check_size(self) -> None:
        _, raster = read_concepts(self.folder, self.languages)
        if self.size < _SMALLEST:
            raise ValueError(f"size={self.size}: at least {_SMALLEST}.")
        if _WIDEST * self.size > raster:
            raise ValueError(
                f"size={self.size}: the drawings in {self.folder} have {raster} pixels, enough for images of up to"
                f" {int(raster / _WIDEST)}. Build larger ones: python -m openpali.scripts.build_emoji36"
                f" --raster {math.ceil(_WIDEST * self.size / 64) * 64} --output FOLDER"
            )
        for style in self.styles:
            archive(self.folder / "drawings" / f"{style}.zip")

    def _draw(self, image: Image.Image, code: str, style: str, rng: random.Random) -> np.ndarray:
        """Paste a drawing at a random place; returns `bool[H, W]` of pixels that it covers by more than half."""
        side = max(round(rng.uniform(_NARROWEST, _WIDEST) * self.size), 8)
        # from the nearest of two sizes, so that the scale is at most 1.5
        level = _MIDDLE if side <= int(_MIDDLE * self.size) else _WIDEST
        posed = turned(sprite(self.folder, style, code, round(level * self.size)), side, rng.uniform(-_TURN, _TURN))
        left, top = (rng.randint(0, self.size - part) for part in posed.size)
        image.paste(posed, (left, top), posed)
        alpha = np.asarray(posed.getchannel("A"))
        mask = np.zeros((self.size, self.size), bool)
        # a lower threshold for faint drawings
        mask[top : top + posed.height, left : left + posed.width] = alpha > min(127, int(alpha.max()) // 2)
        return mask


def turned(image: Image.Image, side: int, degrees: float) -> Image.Image:
    """A drawing turned counter-clockwise and scaled, in one step, to a longer side of `side`."""
    angle = math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    width, height = image.width * cos + image.height * abs(sin), image.width * abs(sin) + image.height * cos
    scale = max(width, height) / side
    new = max(round(width / scale), 1), max(round(height / scale), 1)
    a, b = scale * cos, -scale * sin
    c = image.width / 2 - a * new[0] / 2 - b * new[1] / 2
    f = image.height / 2 + b * new[0] / 2 - a * new[1] / 2
    return image.transform(new, Image.Transform.AFFINE, (a, b, c, -b, a, f), Image.Resampling.BILINEAR)


def chosen_styles(style_split: str | None, styles: Sequence[str] | None) -> tuple[str, ...]:
    """The drawing styles that two options name.

    Raises:
        ValueError: both are given, or one is unknown.
    """
    if styles is None:
        if style_split not in (None, "seen", "held_out"):
            raise ValueError(f"style_split is 'seen' or 'held_out', not {style_split!r}.")
        held_out = style_split == "held_out"
        return tuple(style for style in STYLES if (style == HELD_OUT_STYLE) == held_out)
    chosen = (styles,) if isinstance(styles, str) else tuple(dict.fromkeys(styles))
    if style_split is not None or not chosen or not set(chosen) <= set(STYLES):
        raise ValueError(
            f"styles={list(chosen)}: some of {', '.join(STYLES)}, or style_split 'seen' or 'held_out' instead of them."
        )
    return chosen


def chosen_languages(languages: Sequence[str]) -> tuple[str, ...]:
    """One or several languages, without duplicates.

    Raises:
        ValueError: an unknown language.
    """
    chosen = (languages,) if isinstance(languages, str) else tuple(dict.fromkeys(languages))
    unknown = [language for language in chosen if language not in LANGUAGES]
    if not chosen or unknown:
        hint = ' Put quotes around "no": YAML reads the word as false.' if False in unknown else ""
        raise ValueError(f"languages: no {unknown or 'language'}; there are {', '.join(LANGUAGES)}.{hint}")
    return chosen


def _naming(concept: Concept, style: str) -> dict[str, Any]:
    return {"concept": concept.concept, "names": dict(concept.names), "colour": concept.colours[style]}
