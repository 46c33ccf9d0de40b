"""`answer en  {question} choose from: {choices}`: the text of the correct choice."""

import random
from dataclasses import dataclass
from typing import Any

from openpali.data.example import Example
from openpali.data.tasks.parts.captions import record_images
from openpali.data.tasks.vqa import check_prompt, kind_of, typed


@dataclass(frozen=True)
class MultipleChoice:
    """A record's `question`, its `choices`, and `correct`, the index of the correct one.

    Attributes:
        prompt: with {question} and {choices}. The two spaces are big_vision's, with which checkpoints were trained.
        separator: between choices; big_vision's is a tab, which choices do not contain.
    """

    prompt: str = "answer en  {question} choose from: {choices}"
    separator: str = "\t"
    metric: str = "exact_match"
    metric_key: str = "exact_match"
    max_new_tokens: int = 32
    name: str = "multiple_choice"

    def __post_init__(self) -> None:
        check_prompt(self.prompt, "question", "choices")

    def example(self, record: dict[str, Any], rng: random.Random) -> Example | None:
        """The question, and the correct choice as the only reference."""
        correct = record["choices"][record["correct"]]
        # the question itself may contain {choices}
        before, _, after = self.prompt.partition("{question}")
        listed = self.separator.join(record["choices"])
        before, after = before.replace("{choices}", listed), after.replace("{choices}", listed)
        return Example(
            id=record["id"],
            task=self.name,
            images=record_images(record),
            prefix=before + record["question"] + after,
            suffix=correct.strip(),
            references=(correct,),
            meta=kind_of(record),
        )

    def prediction(self, text: str, example: Example) -> str:
        """The text without space around it."""
        return text.strip()

    def reference(self, example: Example) -> dict[str, Any] | list[str]:
        """The correct choice."""
        return typed(example)
