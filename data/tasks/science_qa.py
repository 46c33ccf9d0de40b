"""ScienceQA: question, context and lettered options, with targets such as "The answer is B."."""

import random
import string
from dataclasses import dataclass
from typing import Any

from openpali.data.example import Example
from openpali.data.tasks.parts.captions import record_images
from openpali.data.tasks.vqa import kind_of, typed

NO_HINT = "N/A"
"""The context of a question without a hint, as in the dataset's own prompts."""


@dataclass(frozen=True)
class ScienceQa:
    """A record's `question`, `hint`, `choices` and `correct`.

    The prompt is the zero-shot prompt of Lu et al. (2022):

        Question: {question}
        Context: {hint}
        Options: (A) x (B) y
        Answer:

    Attributes:
        shuffle: shuffle the options of training records (`training`).
        separator: between options.
    """

    shuffle: bool = True
    separator: str = " "
    metric: str = "science_qa"
    metric_key: str = "accuracy"
    max_new_tokens: int = 16
    name: str = "science_qa"

    def example(self, record: dict[str, Any], rng: random.Random) -> Example | None:
        """The question and the letter of the correct choice; None with more choices than letters."""
        choices, order = record["choices"], list(range(len(record["choices"])))
        if len(choices) > len(string.ascii_uppercase):
            return None
        if self.shuffle and record.get("training"):
            rng.shuffle(order)
        letters = string.ascii_uppercase
        options = self.separator.join(f"({letter}) {choices[place]}" for letter, place in zip(letters, order))
        answer = f"The answer is {letters[order.index(record['correct'])]}."
        lines = f"Question: {record['question']}", f"Context: {record.get('hint') or NO_HINT}", f"Options: {options}"
        return Example(
            id=record["id"],
            task=self.name,
            images=record_images(record),
            prefix="\n".join([*lines, "Answer:"]),
            suffix=answer,
            references=(answer,),
            meta=kind_of(record),
        )

    def prediction(self, text: str, example: Example) -> str:
        """The text without space around it."""
        return text.strip()

    def reference(self, example: Example) -> dict[str, Any] | list[str]:
        """The sentence with the correct letter."""
        return typed(example)
