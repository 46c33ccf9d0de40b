"""Tasks of questions about an image: the pair of a question and its answer, and what these tasks share."""

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from openpali.data.example import Box, Example
from openpali.data.sources.builtin.phrases import question, templates
from openpali.data.tasks.parts.captions import record_images
from openpali.data.tasks.parts.options import set_tuples

OBJECT_KINDS = ("list", "presence", "which", "count")


@dataclass(frozen=True)
class QuestionAnswer:
    """A question with its answer.

    Attributes:
        kind: of question, such as `count`.
        question: its text.
        answer: the right one.
        language: of the question.
        answer_language: of the answer.
        boxes: of the objects that the answer is about.
    """

    kind: str
    question: str
    answer: str
    language: str
    answer_language: str
    boxes: tuple[Box, ...] = ()

    def answer_example(self, task: str, record: dict[str, Any]) -> Example:
        """`answer {language of the answer} {question}` and the answer."""
        return self._example(task, record, f"answer {self.answer_language} {self.question}", self.answer)

    def question_example(self, task: str, record: dict[str, Any]) -> Example:
        """`question {language of the question} {answer}` and the question."""
        return self._example(task, record, f"question {self.language} {self.answer}", self.question)

    def _example(self, task: str, record: dict[str, Any], prefix: str, suffix: str) -> Example:
        meta = {"kind": self.kind, "language": self.language}
        if self.answer_language != self.language:
            meta["answer_language"] = self.answer_language
        return Example(
            id=record["id"],
            task=task,
            images=record_images(record),
            prefix=prefix,
            suffix=suffix,
            references=(suffix,),
            boxes=self.boxes,
            meta=meta,
        )


def object_phrases(language: str) -> dict[str, str]:
    """The templates of object-aware questions in one language. Raises ValueError for a language without any."""
    return templates("object_questions.yaml", language, "questions about objects")


def object_question(kind: str, language: str, *things: str, comma: str = ", ") -> str:
    """A question of one of `OBJECT_KINDS`, or `besides`, about things by their names in the language.

    English has PaliGemma's wording (Beyer et al. 2024, section 3.2.5); the other languages count and ask for presence
    in the words of the built-in images.
    """
    template = object_phrases(language).get(kind)
    if template is None:
        return question(kind, language, thing=things[0])
    return template.format(thing=comma.join(things), things=comma.join(things))


class QuestionTask(ABC):
    """Base of tasks that draw a question of one of several kinds: `answer`, `object_aware` and `vq2a`."""

    kinds: tuple[str, ...]
    languages: tuple[str, ...]
    answer_language: str | None
    name: str

    @property
    def metric(self) -> str:
        """Counts have a metric of their own; every other answer is right or wrong."""
        return "count_accuracy" if self.kinds == ("count",) else "exact_match"

    @property
    def metric_key(self) -> str:
        """The share of right answers."""
        return self.metric

    def check_options(self, known_kinds: Sequence[str], phrases: Callable[[str], Any]) -> None:
        """Make tuples of kinds and languages, and check them.

        Args:
            known_kinds: kinds of the task.
            phrases: raises ValueError for a language that has none.

        Raises:
            ValueError: no kind or no language, or an unknown one.
        """
        set_tuples(self, "kinds", "languages")
        if not self.kinds or not self.languages or not set(self.kinds) <= set(known_kinds):
            chosen = f"kinds={list(self.kinds)}, languages={list(self.languages)}"
            raise ValueError(f"{chosen}: give at least one of each; kinds are {', '.join(known_kinds)}.")
        for language in (*self.languages, self.answer_language or "en"):
            phrases(language)

    @abstractmethod
    def draw_question(self, record: dict[str, Any], rng: random.Random) -> QuestionAnswer | None:
        """A random question about a record, with its answer; None when the record allows none."""

    def example(self, record: dict[str, Any], rng: random.Random) -> Example | None:
        """A random question as the prompt and its answer as the target; None when the record allows none."""
        pair = self.draw_question(record, rng)
        return pair and pair.answer_example(self.name, record)

    def prediction(self, text: str, example: Example) -> str:
        """The text without space around it."""
        return text.strip()

    def reference(self, example: Example) -> list[str]:
        """Every right answer."""
        return list(example.references)
