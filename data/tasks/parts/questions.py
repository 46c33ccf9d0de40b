"""A question about an image and its answer, perhaps in another language, for the tasks that ask or answer."""

import functools
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import yaml

from openpali.data.example import Box, Example
from openpali.data.sources.builtin.phrases import LANGUAGES, question
from openpali.data.tasks.parts.captions import record_images

OBJECT_KINDS = ("list", "presence", "which", "count")


@dataclass(frozen=True)
class Asked:
    """A question with its answer.

    Attributes:
        kind: of question, such as `count`.
        question: as asked.
        answer: the right one.
        language: of the question.
        answer_language: of the answer.
        boxes: of the objects that the answer speaks of.
    """

    kind: str
    question: str
    answer: str
    language: str
    answer_language: str
    boxes: tuple[Box, ...] = ()

    def answered(self, task: str, record: dict[str, Any]) -> Example:
        """`answer {language of the answer} {question}` and the answer."""
        return self._example(task, record, f"answer {self.answer_language} {self.question}", self.answer)

    def asked(self, task: str, record: dict[str, Any]) -> Example:
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


@functools.cache
def object_phrases(language: str) -> dict[str, str]:
    """The templates of object-aware questions in one language.

    Raises:
        ValueError: the language has none.
    """
    table = yaml.safe_load((files("openpali.data.sources.builtin") / "object_questions.yaml").read_text("utf-8"))
    if language not in table:
        raise ValueError(f"no questions about objects in {language!r}; there are {', '.join(LANGUAGES)}.")
    return table[language]


def object_question(kind: str, language: str, *things: str, comma: str = ", ") -> str:
    """A question of one of `OBJECT_KINDS`, or `besides`, about things as they are called in the language.

    English has PaliGemma's wording (Beyer et al. 2024, section 3.2.5); counting and presence in the other languages
    is that of the built-in images.
    """
    template = object_phrases(language).get(kind)
    if template is None:
        return question(kind, language, thing=things[0])
    return template.format(thing=comma.join(things), things=comma.join(things))


class CountedApart:
    """Tasks of questions whose `kinds` may be those of counting alone."""

    kinds: tuple[str, ...]

    @property
    def metric(self) -> str:
        """Counts have a metric of their own; every other answer is right or wrong."""
        return "count_accuracy" if self.kinds == ("count",) else "exact_match"

    @property
    def metric_key(self) -> str:
        """The share of right answers."""
        return self.metric
