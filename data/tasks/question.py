"""`question {lang} {English answer}`: a question to which that is the answer. Visual question generation."""

import functools
import random
from dataclasses import dataclass
from typing import Any

from openpali.data.example import Example
from openpali.data.sources import several
from openpali.data.tasks.answer import Answer
from openpali.data.tasks.object_aware import ObjectAware
from openpali.data.tasks.vq2a import Vq2a

_ASKING: dict[str, Any] = {"answer": Answer, "object_aware": ObjectAware, "vq2a": Vq2a}


@dataclass(frozen=True)
class Question:
    """The questions of another task, turned round.

    Attributes:
        asks: that task: `vq2a`, as in PaLI and PaliGemma, `answer` or `object_aware`.
        kinds: of its questions; those that it has when empty.
        languages: of the questions, one drawn for each example.
        answer_language: of the answer; None for that of the question. The papers have English ones.
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
        for field in ("kinds", "languages"):
            object.__setattr__(self, field, several(getattr(self, field)))
        if self.asks not in _ASKING:
            raise ValueError(f"asks={self.asks!r}: one of {', '.join(_ASKING)}")
        # its options are checked now rather than at the first record
        _ = self._task

    @functools.cached_property
    def _task(self) -> Any:
        kinds = {"kinds": self.kinds} if self.kinds else {}
        return _ASKING[self.asks](languages=self.languages, answer_language=self.answer_language, **kinds)

    def example(self, record: dict[str, Any], rng: random.Random) -> Example | None:
        """The answer, and what was asked; None where the other task has nothing to ask."""
        asked = self._task.asked(record, rng)
        return asked and asked.asked(self.name, record)

    def prediction(self, text: str, example: Example) -> str:
        """The text without space around it."""
        return text.strip()

    def reference(self, example: Example) -> list[str]:
        """The question; others with the same answer count by what they share with it."""
        return list(example.references)
