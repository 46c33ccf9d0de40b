"""Captions, questions, classes and texts of custom data: a prompt, and one of the record's answers."""

import random
from dataclasses import dataclass
from typing import Any

from openpali.data.example import Example
from openpali.data.tasks.parts.captions import record_images

PROMPTS = {
    "caption": "caption {language}",
    "vqa": "answer {language} {question}",
    "classify": "answer {language} what is this?",
    "ocr": "ocr",
}
METRICS = {"caption": "cider", "vqa": "exact_match", "classify": "exact_match", "ocr": "anls"}


@dataclass(frozen=True)
class CustomAnswers:
    """Records with `answers`, or with `captions` in a language as the answers.

    Attributes:
        kind: caption, vqa, classify or ocr.
        prompt: of every example, with the placeholders {question} and {language}; that of the kind when empty.
        language: of prompts and captions.
        metric: that of the kind when empty.
        metric_key: of the metric; its name when empty.
    """

    kind: str = "vqa"
    prompt: str = ""
    language: str = "en"
    metric: str = ""
    metric_key: str = ""
    max_new_tokens: int = 64
    name: str = "custom"

    def __post_init__(self) -> None:
        if self.kind not in PROMPTS:
            raise ValueError(f"kind is one of {', '.join(PROMPTS)}, not {self.kind!r}")
        chosen = {"prompt": self.prompt or PROMPTS[self.kind], "metric": self.metric or METRICS[self.kind]}
        chosen |= {"metric_key": self.metric_key or chosen["metric"]}
        for field, value in chosen.items():
            object.__setattr__(self, field, value)
        if self.kind == "vqa" and "{question}" not in self.prompt:
            raise ValueError("prompt: write {question} in place of the question")

    def example(self, record: dict[str, Any], rng: random.Random) -> Example | None:
        """A random answer, with all answers as references; None without any."""
        found = record["captions"].get(self.language) if self.kind == "caption" else record["answers"]
        if not found:
            return None
        # not str.format: the prompt may hold other braces
        prefix = self.prompt.replace("{language}", self.language).replace("{question}", record.get("question", ""))
        return Example(
            id=record["id"],
            task=self.name,
            controls="none",
            images=record_images(record),
            prefix=prefix,
            suffix=rng.choice(list(found)),
            references=tuple(found),
        )

    def prediction(self, text: str, example: Example) -> str:
        """The text without space around it."""
        return text.strip()

    def reference(self, example: Example) -> list[str]:
        """All correct answers."""
        return list(example.references)
