"""`answer en  {question} choose from: {choices}`: the text of the correct choice, or its letter."""

import random
import re
from dataclasses import dataclass
from typing import Any

from openpali.data.example import Example
from openpali.data.tasks.parts.captions import record_images
from openpali.data.tasks.vqa import check_prompt, kind_of, typed

# "(a) Open", "a) Open", "a. Open" and "a", but not "a dog"
_LETTER = re.compile(r"\(([a-z])\)|([a-z])[).:](?=\s|$)|([a-z])$", re.IGNORECASE)


@dataclass(frozen=True)
class MultipleChoice:
    """A record's `question`, its `choices`, and `correct`, the index of the correct one.

    Attributes:
        prompt: with {question} and {choices}. The two spaces are big_vision's, with which checkpoints were trained.
        separator: between choices; big_vision's is a tab, which choices do not contain.
        letters: choices are `(a) Open`, `(b) Closed`, and the answer is `(a)`, as chat models expect it.
    """

    prompt: str = "answer en  {question} choose from: {choices}"
    separator: str = "\t"
    letters: bool = False
    metric: str = "exact_match"
    metric_key: str = "exact_match"
    max_new_tokens: int = 32
    name: str = "multiple_choice"

    def __post_init__(self) -> None:
        check_prompt(self.prompt, "question", "choices")

    def example(self, record: dict[str, Any], rng: random.Random) -> Example | None:
        """The question, and the correct choice as the only reference."""
        choices, correct = list(record["choices"]), record["choices"][record["correct"]]
        meta = kind_of(record)
        if self.letters:
            meta |= {"choices": choices}
            correct = letter(record["correct"])
            choices = [f"{letter(place)} {choice}" for place, choice in enumerate(choices)]
        # the question itself may contain {choices}
        before, _, after = self.prompt.partition("{question}")
        listed = self.separator.join(choices)
        before, after = before.replace("{choices}", listed), after.replace("{choices}", listed)
        return Example(
            id=record["id"],
            task=self.name,
            images=record_images(record),
            prefix=before + record["question"] + after,
            suffix=correct.strip(),
            references=(correct,),
            meta=meta,
        )

    def prediction(self, text: str, example: Example) -> str:
        """The text without space around it; with `letters` the letter that it begins with, or that of its choice."""
        text = text.strip()
        if not self.letters:
            return text
        if found := _LETTER.match(text):
            return f"({''.join(filter(None, found.groups())).lower()})"
        same = [choice.strip().lower() == text.strip(" .").lower() for choice in example.meta["choices"]]
        return letter(same.index(True)) if any(same) else text

    def reference(self, example: Example) -> dict[str, Any] | list[str]:
        """The correct choice."""
        return typed(example)


def letter(place: int) -> str:
    """The letter of a choice: `(a)` of the first."""
    return f"({chr(ord('a') + place)})"
