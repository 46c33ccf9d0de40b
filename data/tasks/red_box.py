"""`caption {lang}` with a red box drawn on the image: a caption of the box, as in PaliGemma's WidgetCap."""

import random
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw

from openpali.data.example import Box, Example
from openpali.data.masks.objects import draw_region_text, labelled

_USUAL_SIDE = 224


@dataclass(frozen=True)
class RedBox:
    """A sentence of one of the `objects` of a record, or its name if it has no sentences.

    big_vision draws a line of one pixel after resizing the image; `size`, the side of the model's images, does exactly
    the same. Without `size` the line is drawn on the original image, about one pixel wide at 224.

    Attributes:
        size: side of the model's images in pixels; None to keep the original size.
        language: of the sentences or names.
        metric: `cider` is better for sentences.
        metric_key: of the metric, `cider` for `cider`.
    """

    size: int | None = None
    language: str = "en"
    metric: str = "exact_match"
    metric_key: str = "exact_match"
    max_new_tokens: int = 32
    name: str = "red_box"

    def example(self, record: dict[str, Any], rng: random.Random) -> Example | None:
        """A text of a random object; None when no object has one in the language."""
        found = draw_region_text(record["objects"], self.language, rng)
        if found is None:
            return None
        item, texts, text = found
        image = record["image"]
        width = max(1, round(max(image.size) / _USUAL_SIDE))
        if self.size is not None:
            image, width = image.resize((self.size, self.size), Image.Resampling.BILINEAR), 1
        return Example(
            id=record["id"],
            task=self.name,
            images=(draw_red_box(image, item["box"], width),),
            prefix=f"caption {self.language}",
            suffix=text,
            references=tuple(texts),
            boxes=(labelled(item["box"], text),),
        )

    def prediction(self, text: str, example: Example) -> str:
        """The text without space around it."""
        return text.strip()

    def reference(self, example: Example) -> list[str]:
        """All texts of the object."""
        return list(example.references)


def draw_red_box(image: Image.Image, box: Box, width: int = 1) -> Image.Image:
    """A copy of the image with the outline of a box, whose line extends inwards from the edges.

    Edges are at pixel (side - 1) x coordinate, truncated, as in big_vision's preprocessing.
    """
    image = image.copy()
    across, down = image.width - 1, image.height - 1
    corners = (int(box.x0 * across), int(box.y0 * down), int(box.x1 * across), int(box.y1 * down))
    ImageDraw.Draw(image).rectangle(corners, outline=(255, 0, 0), width=width)
    return image
