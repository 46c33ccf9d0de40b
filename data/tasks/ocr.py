"""`ocr`: the words on the image, in reading order."""

import random
from dataclasses import dataclass
from typing import Any

from openpali.data.example import Box, Example
from openpali.data.tasks.parts.captions import record_images

ORDERS = ("record", "raster")

_LONGEST_SKIP = 8


@dataclass(frozen=True)
class Ocr:
    """Text of records with `words`: `text` of each, and `box` if known.

    Snippets at random places are removed from a text that is too long, as in PaliGemma's pretraining (Beyer et al.
    2024, section 3.2.5): truncation would train on the top of dense pages only.

    Attributes:
        most_characters: maximum characters of a target, with spaces; None for no limit. A token is about four
            characters of English, about one of Chinese or Japanese.
        order: `record` for that of the record's words; `raster` for lines from top to bottom and words from left to
            right, by the boxes.
    """

    most_characters: int | None = None
    order: str = "record"
    metric: str = "exact_match"
    metric_key: str = "exact_match"
    max_new_tokens: int = 32
    name: str = "ocr"

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise ValueError(f"order is one of {', '.join(ORDERS)}, not {self.order!r}")
        if self.most_characters is not None and self.most_characters < 1:
            raise ValueError(f"most_characters={self.most_characters}: at least 1, or left out")

    def example(self, record: dict[str, Any], rng: random.Random) -> Example | None:
        """The words, joined by spaces; None without words, or when each is too long."""
        words = [word for word in record.get("words") or () if word["text"].strip()]
        if self.order == "raster":
            words = raster_order(words)
        if self.most_characters is not None:
            words = skip_snippets(words, self.most_characters, rng)
        if not words:
            return None
        text = " ".join(word["text"].strip() for word in words)
        return Example(
            id=record["id"],
            task=self.name,
            controls="none",
            images=record_images(record),
            prefix="ocr",
            suffix=text,
            references=(text,),
            boxes=tuple(word["box"] for word in words if word.get("box")),
        )

    def prediction(self, text: str, example: Example) -> str:
        """The words with single spaces."""
        return " ".join(text.split())

    def reference(self, example: Example) -> list[str]:
        """The words on the image."""
        return [" ".join(text.split()) for text in example.references]


def raster_order(words: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Words sorted by lines. A word is on the line of a higher word when its middle is above that word's bottom."""
    lines: list[list[dict[str, Any]]] = []
    for word in sorted(words, key=lambda word: _middle(word["box"])):
        if lines and _middle(word["box"]) < lines[-1][0]["box"].y1:
            lines[-1].append(word)
        else:
            lines.append([word])
    return [word for line in lines for word in sorted(line, key=lambda word: word["box"].x0)]


def skip_snippets(words: list[dict[str, Any]], most: int, rng: random.Random) -> list[dict[str, Any]]:
    """Words that fit in `most` characters, with spaces.

    Runs of up to eight words are removed until the rest fits. A run that reaches the end continues at the beginning,
    so that all places have the same probability.
    """
    kept = [word for word in words if len(word["text"].strip()) <= most]
    length = sum(len(word["text"].strip()) + 1 for word in kept) - 1
    while length > most:
        at = rng.randrange(len(kept))
        for _ in range(rng.randint(1, _LONGEST_SKIP)):
            if length <= most:
                break
            at %= len(kept)
            length -= len(kept.pop(at)["text"].strip()) + 1
    return kept


def _middle(box: Box) -> float:
    return (box.y0 + box.y1) / 2
