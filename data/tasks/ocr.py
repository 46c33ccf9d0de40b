"""`ocr`: the words on the picture, in reading order."""

import random
from dataclasses import dataclass
from typing import Any

from openpali.data.example import Example


@dataclass(frozen=True)
class Ocr:
    """Reading from records that carry `words`: text and box of each, in reading order."""

    metric: str = "exact_match"
    metric_key: str = "exact_match"
    max_new_tokens: int = 32
    name: str = "ocr"

    def example(self, record: dict[str, Any], rng: random.Random) -> Example | None:
        """All words, joined by spaces; None without words."""
        if not record.get("words"):
            return None
        text = " ".join(word["text"] for word in record["words"])
        return Example(
            id=record["id"],
            task=self.name,
            images=(record["image"],),
            prefix="ocr",
            suffix=text,
            references=(text,),
            boxes=tuple(word["box"] for word in record["words"]),
        )

    def prediction(self, text: str, example: Example) -> str:
        """The words, single spaces between them."""
        return " ".join(text.split())

    def reference(self, example: Example) -> list[str]:
        """The words on the picture."""
        return list(example.references)
