"""`answer en {question}`: questions of public datasets or custom data, with one or several correct answers."""

import random
from dataclasses import dataclass, field
from typing import Any, Literal

from openpali.data.example import Example
from openpali.data.tasks.parts.captions import record_images


@dataclass(frozen=True)
class Vqa:
    """A record's `question` and one of its `answers`.

    Attributes:
        prompt: with the placeholder {question}.
        lower: lower-case the answers.
        target: the answer to train on: `random`, so that frequent answers come more often, or `first`.
        metric: `vqa`, `vqav2` (needs ten answers), `anls`, `relaxed_accuracy`, `tallyqa`, `pope`, `rsvqa`,
            `exact_match`, `pair_accuracy`, `multiview` or `mentions`.
        metric_key: of that metric.
        metric_options: of that metric, such as `encoder` of `multiview`.
    """

    prompt: str = "answer en {question}"
    lower: bool = False
    target: Literal["random", "first"] = "random"
    metric: str = "vqa"
    metric_key: str = "accuracy"
    metric_options: dict[str, Any] = field(default_factory=dict)
    max_new_tokens: int = 32
    name: str = "vqa"

    def __post_init__(self) -> None:
        check_prompt(self.prompt, "question")
        if self.target not in ("random", "first"):
            raise ValueError(f"target={self.target!r}: random or first")

    def example(self, record: dict[str, Any], rng: random.Random) -> Example | None:
        """The question and an answer, with all answers as references; None without any."""
        answers = tuple(text.lower() if self.lower else text for text in record["answers"])
        given = [text.strip() for text in answers if text.strip()]
        if not given:
            return None
        return Example(
            id=record["id"],
            task=self.name,
            controls="none",
            images=record_images(record),
            prefix=self.prompt.replace("{question}", record["question"]),
            suffix=rng.choice(given) if self.target == "random" else given[0],
            references=answers,
            meta=kind_of(record),
        )

    def prediction(self, text: str, example: Example) -> str:
        """The text without space around it."""
        return text.strip()

    def reference(self, example: Example) -> dict[str, Any] | list[str]:
        """All answers, and the type of the question if the dataset has types."""
        return typed(example)


def check_prompt(prompt: str, *placeholders: str) -> None:
    """Raise ValueError unless a prompt has every placeholder."""
    if missing := [name for name in placeholders if f"{{{name}}}" not in prompt]:
        raise ValueError(f"prompt={prompt!r}: it has no place for {{{missing[0]}}}")


def kind_of(record: dict[str, Any]) -> dict[str, Any]:
    """The `meta` of a question: its type, if it has one."""
    return {"question_type": record["question_type"]} if record.get("question_type") else {}


def typed(example: Example) -> dict[str, Any] | list[str]:
    """The references of a question, with its type, in the form of the metrics."""
    answers = list(example.references)
    return {"answers": answers, "type": kind} if (kind := example.meta.get("question_type")) else answers
