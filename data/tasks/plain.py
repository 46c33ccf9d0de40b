"""Prefix and suffix of the record itself, for custom data."""

import random
from dataclasses import dataclass
from typing import Any

from openpali.data.example import Example


@dataclass(frozen=True)
class Plain:
    """A record's own `prefix` and `suffix`, and its `references` if it has several correct answers."""

    metric: str = "exact_match"
    metric_key: str = "exact_match"
    max_new_tokens: int = 64
    name: str = "plain"

    def example(self, record: dict[str, Any], rng: random.Random) -> Example | None:
        """The record, unchanged."""
        images = record["images"] if "images" in record else [record["image"]]
        return Example(
            id=record["id"],
            task=self.name,
            images=tuple(images),
            prefix=record["prefix"],
            suffix=record["suffix"],
            references=tuple(record.get("references") or [record["suffix"]]),
        )

    def prediction(self, text: str, example: Example) -> str:
        """The text without space around it."""
        return text.strip()

    def reference(self, example: Example) -> list[str]:
        """All correct answers."""
        return list(example.references)
