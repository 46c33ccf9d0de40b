"""Images of the nano web: scenes, copies as the web makes them, written words, and unsuitable shapes."""

import io
import random
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from PIL import Image, ImageDraw, ImageEnhance, ImageFont

from openpali.data.sources.builtin.emoji import EmojiScenes
from openpali.data.sources.builtin.written_words import WORDS

SIDES = (64, 80, 96)
WITH_WORDS = 96
SCENES: dict[str, Any] = {"concepts": 16, "objects": (1, 2), "length": 1_000_000}
SINGLE: dict[str, Any] = SCENES | {"objects": (1, 1)}
TEST: dict[str, Any] = {"split": "test", "size": 64, "concepts": 16, "objects": (1, 1), "length": 2_000}
"""Scenes on which stage 1 is evaluated; the first of them are the evaluation images."""
READABLE = 10
"""Least height of a readable word in pixels."""


@dataclass
class Picture:
    """An image of the nano web.

    Attributes:
        image: RGB.
        record: of the built-in scene on it.
        words: written on it: `text`, `box` as [x0, y0, x1, y1] in pixels, `height` in pixels, `readable`.
    """

    image: Image.Image
    record: dict[str, Any]
    words: list[dict[str, Any]] = field(default_factory=list)

    @property
    def things(self) -> set[str]:
        """English names of what is on the image."""
        return {item["concept"] for item in self.record["objects"]}


@dataclass(frozen=True)
class Pictures:
    """Scenes by number, the same for the same seed."""

    seed: int

    @cached_property
    def _plain(self) -> dict[int, EmojiScenes]:
        # another seed than that of the images for training and evaluation
        return {side: EmojiScenes(size=side, seed=1000 + self.seed, **SCENES) for side in SIDES}

    @cached_property
    def _written(self) -> EmojiScenes:
        return EmojiScenes(size=WITH_WORDS, seed=2000 + self.seed, words=(1, 2), **SINGLE)

    @cached_property
    def _single(self) -> EmojiScenes:
        return EmojiScenes(size=SIDES[0], seed=3000 + self.seed, **SINGLE)

    def single(self, number: int) -> Picture:
        """A scene of one thing, without words."""
        record = self._single[number]
        return Picture(record["image"], record)

    def scene(self, number: int) -> Picture:
        """A scene without words."""
        record = self._plain[SIDES[number % len(SIDES)]][number]
        return Picture(record["image"], record)

    def readable(self, number: int) -> Picture:
        """A scene with one or two words of a size that is read."""
        record = self._written[number]
        return Picture(record["image"], record, [_in_pixels(word, WITH_WORDS) for word in record["words"]])

    def unreadable(self, number: int, rng: random.Random) -> Picture:
        """A scene with a line of words of a few pixels."""
        picture = self.scene(number)
        words, x, y = [], 2.0, picture.image.height - 8
        draw, font = ImageDraw.Draw(picture.image), ImageFont.load_default(5)
        for text in rng.sample(WORDS, 3):
            box = draw.textbbox((x, y), text, font=font)
            if box[2] >= picture.image.width:
                break
            draw.text((x, y), text, fill="black", font=font)
            words.append({"text": text, "box": [round(edge) for edge in box], "height": round(box[3] - box[1])})
            x = box[2] + 3
        return Picture(picture.image, picture.record, [word | {"readable": False} for word in words])


def _in_pixels(word: dict[str, Any], side: int) -> dict[str, Any]:
    box = word["box"]
    edges = [round(side * edge) for edge in (box.x0, box.y0, box.x1, box.y1)]
    height = edges[3] - edges[1]
    return {"text": word["text"], "box": edges, "height": height, "readable": height >= READABLE}


def copied(image: Image.Image, rng: random.Random) -> tuple[bytes, dict[str, float]]:
    """A copy as a JPEG, resized, a little cropped, brighter or darker, and compressed; and by how much."""
    how = {
        "scale": round(rng.uniform(0.75, 1.4), 2),
        "crop": round(rng.choice((0, 0, rng.uniform(0, 0.015))), 3),
        "brightness": round(rng.uniform(0.94, 1.06), 2),
        "quality": rng.randint(45, 85),
    }
    width, height = image.size
    edge = how["crop"]
    window = (edge * width, edge * height, (1 - edge) * width, (1 - edge) * height)
    size = (round(how["scale"] * width), round(how["scale"] * height))
    copy = image.resize(size, Image.Resampling.BICUBIC, box=window)
    copy = ImageEnhance.Brightness(copy).enhance(how["brightness"])
    return encoded(copy, "jpeg", quality=how["quality"]), how


def tiny(image: Image.Image, rng: random.Random) -> Image.Image:
    """A thumbnail of a few pixels."""
    side = rng.randint(8, 20)
    return image.resize((side, side), Image.Resampling.BICUBIC)


def wide(image: Image.Image, rng: random.Random) -> Image.Image:
    """A banner: its width is nine to twelve times its height."""
    height = rng.randint(40, 48)
    return image.resize((height * rng.randint(9, 12), height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
