"""`answer {lang} {question}`: name, count, colour, position and presence of things on the built-in images.

`{lang}` is the language of the answer.
"""

import random
from dataclasses import dataclass
from typing import Any

from openpali.data.sources.builtin.phrases import KINDS, colour_word, phrases, position_word, question
from openpali.data.tasks.parts.questions import QuestionAnswer, QuestionTask

ABSENT = 0.2
"""Share of counting questions about an absent thing."""


@dataclass(frozen=True)
class Answer(QuestionTask):
    """Questions on the built-in images, with a word, a number or a place as the answer.

    Attributes:
        kinds: of questions, of `what`, `count`, `colour`, `where` and `presence`.
        languages: of the questions, one drawn for each example.
        answer_language: of the answers; None for that of the question. PaliGemma is pretrained on questions in 35
            languages with English answers.
    """

    kinds: tuple[str, ...] = KINDS
    languages: tuple[str, ...] = ("en",)
    answer_language: str | None = None
    max_new_tokens: int = 16
    name: str = "answer"

    def __post_init__(self) -> None:
        self.check_options(KINDS, phrases)

    def draw_question(self, record: dict[str, Any], rng: random.Random) -> QuestionAnswer | None:
        """A question of a random kind among those that the scene allows."""
        language = rng.choice(self.languages)
        reply = self.answer_language or language
        for kind in rng.sample(self.kinds, len(self.kinds)):
            found = _QUESTIONS[kind](record, language, reply, rng)
            if found is not None:
                text, answer, about = found
                return QuestionAnswer(kind, text, answer, language, reply, tuple(item["box"] for item in about))
        return None


def _what(record: dict[str, Any], language: str, reply: str, rng: random.Random) -> Any:
    """About a single object; about one of several by its place, when no other is there."""
    objects = record["objects"]
    if len(objects) == 1:
        return question("what", language), objects[0]["names"][reply], objects
    places = [item["position"] for item in objects]
    alone = [item for item in objects if places.count(item["position"]) == 1]
    if not alone:
        return None
    item = rng.choice(alone)
    return question("what_at", language, position=item["position"]), item["names"][reply], [item]


def _count(record: dict[str, Any], language: str, reply: str, rng: random.Random) -> Any:
    absent = rng.random() < ABSENT or not record["objects"]
    item = rng.choice(record["absent"] if absent else record["objects"])
    same = [other for other in record["objects"] if other["concept"] == item["concept"]]
    return question("count", language, thing=item["names"][language]), str(len(same)), same


def _presence(record: dict[str, Any], language: str, reply: str, rng: random.Random) -> Any:
    """Yes and no have equal probability."""
    absent = rng.random() < 0.5 or not record["objects"]
    item = rng.choice(record["absent"] if absent else record["objects"])
    same = [other for other in record["objects"] if other["concept"] == item["concept"]]
    answer = phrases(reply)["yes_no"][0 if same else 1]
    return question("presence", language, thing=item["names"][language]), answer, same


def _colour(record: dict[str, Any], language: str, reply: str, rng: random.Random) -> Any:
    items = [item for item in _single(record) if item["colour"] is not None]
    if not items:
        return None
    item = rng.choice(items)
    text = question("colour", language, thing=item["names"][language])
    return text, colour_word(item["colour"], reply), [item]


def _where(record: dict[str, Any], language: str, reply: str, rng: random.Random) -> Any:
    items = _single(record)
    if not items:
        return None
    item = rng.choice(items)
    answer = position_word(item["position"], reply)
    return question("where", language, thing=item["names"][language]), answer, [item]


def _single(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Objects that are the only ones of their concept."""
    concepts = [item["concept"] for item in record["objects"]]
    return [item for item in record["objects"] if concepts.count(item["concept"]) == 1]


_QUESTIONS = {"what": _what, "count": _count, "colour": _colour, "where": _where, "presence": _presence}
