"""`question {lang} {English answer}`: visual question generation, the question of a given answer."""

import functools
import random
from dataclasses import dataclass
from typing import Any

from openpali.data.example import Example
from openpali.data.tasks.answer import Answer
from openpali.data.tasks.object_aware import ObjectAware
from openpali.data.tasks.parts.options import set_tuples
from openpali.data.tasks.vq2a import Vq2a

_QUESTION_TASKS: dict[str, Any] = {"answer": Answer, "object_aware": ObjectAware, "vq2a": Vq2a}


@dataclass(frozen=True)
class Question:
    """The questions of another task, with prompt and target exchanged.

    Attributes:
        asks: name of the other task: `vq2a`, as in PaLI and PaliGemma, `answer` or `object_aware`.
        kinds: of its questions; all of them when empty.
        languages: of the questions, one drawn for each example.
        answer_language: of the answers; None for that of the question. The papers use English.
    """

    asks: str = "vq2a"
    kinds: tuple[str, ...] = ()
    languages: tuple[str, ...] = ("en",)
    answer_language: str | None = "en"
    metric: str = "cider"
    metric_key: str = "cider"
    max_new_tokens: int = 32
    name: str = "question"

    def __post_init__(self) -> None:
        set_tuples(self, "kinds", "languages")
        if self.asks not in _QUESTION_TASKS:
            raise ValueError(f"asks={self.asks!r}: one of {', '.join(_QUESTION_TASKS)}")
        # checks its options before the first record
        _ = self._task

    @functools.cached_property
    def _task(self) -> Any:
        kinds = {"kinds": self.kinds} if self.kinds else {}
        return _QUESTION_TASKS[self.asks](languages=self.languages, answer_language=self.answer_language, **kinds)

    def example(self, record: dict[str, Any], rng: random.Random) -> Example | None:
        """A random answer as the prompt and its question as the target; None when the other task has no question."""
        pair = self._task.draw_question(record, rng)
        return pair and pair.question_example(self.name, record)

    def prediction(self, text: str, example: Example) -> str:
        """The text without space around it."""
        return text.strip()

    def reference(self, example: Example) -> list[str]:
        """The question; CIDEr gives partial credit to similar ones."""
        return list(example.references)
