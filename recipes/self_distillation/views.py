"""Views of an image for self-distillation: one of most of it, several of small parts, and patches to mask.

Everything is drawn from one number of the example, so that views depend neither on the batch nor on the process, nor
on where a run was resumed.
"""

import copy
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from openpali.data.example import Example
from openpali.data.files.config import ConfigError
from openpali.data.images.mirrored_text import mirrored
from openpali.data.images.preprocess import FastImageProcessor
from openpali.recipes.captioning.batches import DRAW

MIRRORED = "may_be_mirrored"
_RATIOS, _TRIES = (3 / 4, 4 / 3), 10


@dataclass(frozen=True)
class ViewOptions:
    """How views are drawn.

    Attributes:
        number: of local views.
        local_size: their side in pixels.
        global_area, local_area: smallest and largest share of the image's area.
        flip: probability that a view is mirrored, where `may_be_mirrored` allows it.
        masked_share: of the patches of the global view.
    """

    number: int
    local_size: int
    global_area: tuple[float, float] = (0.4, 1.0)
    local_area: tuple[float, float] = (0.05, 0.4)
    flip: float = 0.0
    masked_share: float = 0.5

    def __post_init__(self) -> None:
        if self.number < 1:
            raise ConfigError(f"local_views={self.number}: give 1 or more, or late_share: 0")
        for key in ("global_area", "local_area"):
            area = getattr(self, key)
            if len(area) != 2 or not 0 < area[0] <= area[1] <= 1:
                raise ConfigError(f"{key}: smallest and largest share of the image, above 0 and up to 1, not {area}")
        if not 0 <= self.flip <= 1:
            raise ConfigError(f"view_flip={self.flip}: it is a probability, from 0 to 1")
        if not 0 < self.masked_share < 1:
            raise ConfigError(f"masked_share={self.masked_share}: it is between 0 and 1")


class Views:
    """Makes the views of a batch.

    Args:
        image_processor: of the model, with the size of the global view.
        patch_size: of the model.
        options: how views are drawn.
    """

    def __init__(self, image_processor: Any, patch_size: int, options: ViewOptions):
        self.options, self.patches = options, (image_processor.size["height"] // patch_size) ** 2
        smaller = copy.deepcopy(image_processor)
        smaller.size = {"height": options.local_size, "width": options.local_size}
        self.whole, self.small = (FastImageProcessor(own, exact=False) for own in (image_processor, smaller))

    def __call__(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """`global_views`: float[B, 3, H, W]; `local_views`: float[B, V, 3, h, w]; `masked`: int[B, M], sorted."""
        own, number = self.options, self.options.number
        whole: list[Image.Image] = []
        small: list[Image.Image] = []
        masked: list[list[int]] = []
        for example in examples:
            rng = random.Random(f"views-{example.meta[DRAW]}")
            flip = own.flip if example.meta.get(MIRRORED) else 0.0
            image = example.images[0]
            whole.append(view(image, own.global_area, flip, rng))
            small += [view(image, own.local_area, flip, rng) for _ in range(number)]
            masked.append(sorted(rng.sample(range(self.patches), max(1, int(own.masked_share * self.patches)))))
        local = self.small(small, return_tensors="pt")["pixel_values"]
        return {
            "global_views": self.whole(whole, return_tensors="pt")["pixel_values"],
            "local_views": local.unflatten(0, (len(examples), number)),
            "masked": torch.tensor(masked),
        }


def view(image: Image.Image, area: tuple[float, float], flip: float, rng: random.Random) -> Image.Image:
    """A random part of an image, perhaps mirrored."""
    left, top, width, height = window(image.size, area, rng)
    part = image.crop((left, top, left + width, top + height))
    # drawn also where it is 0, so that this option changes no window
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < flip else part


def window(size: tuple[int, int], area: tuple[float, float], rng: random.Random) -> tuple[int, int, int, int]:
    """Left, top, width and height of a random window: share of the area even, aspect ratio from 3/4 to 4/3.

    After ten windows that are larger than the image it is the largest central one of such a ratio.
    """
    wide, high = size
    for _ in range(_TRIES):
        pixels = wide * high * rng.uniform(*area)
        ratio = math.exp(rng.uniform(math.log(_RATIOS[0]), math.log(_RATIOS[1])))
        width, height = max(1, round(math.sqrt(pixels * ratio))), max(1, round(math.sqrt(pixels / ratio)))
        if width <= wide and height <= high:
            return rng.randint(0, wide - width), rng.randint(0, high - height), width, height
    width, height = min(wide, max(1, round(high * _RATIOS[1]))), min(high, max(1, round(wide / _RATIOS[0])))
    return (wide - width) // 2, (high - height) // 2, width, height


def may_be_mirrored(record: dict[str, Any], languages: Sequence[str]) -> bool:
    """Whether a mirrored image would still be true: without written words, and with captions that name no side.

    A caption of which that is not known forbids it, and so does a record without captions.
    """
    if record.get("words"):
        return False
    captions = record.get("captions") or ({languages[0]: record["suffix"]} if record.get("suffix") else {})
    texts = [
        (language, text)
        for language, own in captions.items()
        for text in ([own] if isinstance(own, str) else own or [])
    ]
    return bool(texts) and all(mirrored(text, language) == text for language, text in texts)
