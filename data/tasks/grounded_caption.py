"""`caption <ymin><xmin><ymax><xmax>`, four location tokens: grounded captioning of a box."""

import random
from dataclasses import dataclass
from typing import Any

from openpali.data.example import Example
from openpali.data.masks.objects import draw_region_text, labelled, located
from openpali.modeling.location_tokens import format_box


@dataclass(frozen=True)
class GroundedCaption:
    """A sentence of one of the `objects` of a record, or its name if it has no sentences.

    Attributes:
        language: of the sentences or names.
        metric: `cider` is better for sentences.
        metric_key: of the metric, `cider` for `cider`.
    """

    language: str = "en"
    metric: str = "exact_match"
    metric_key: str = "exact_match"
    max_new_tokens: int = 32
    name: str = "grounded_caption"

    def example(self, record: dict[str, Any], rng: random.Random) -> Example | None:
        """A text of a random object; None when no object has one in the language."""
        found = draw_region_text(record["objects"], self.language, rng)
        if found is None:
            return None
        item, texts, text = found
        return Example(
            id=record["id"],
            task=self.name,
            images=(record["image"],),
            prefix=f"caption {format_box(located(item['box']))}",
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
