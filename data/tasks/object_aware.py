"""`answer {lang} {question}` about objects: list, presence, presence of several, count."""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from openpali.data.example import Example
from openpali.data.masks.objects import reading_order
from openpali.data.sources.builtin.phrases import phrases
from openpali.data.tasks.parts.options import set_tuples
from openpali.data.tasks.parts.questions import (
    OBJECT_KINDS,
    QuestionAnswer,
    QuestionTask,
    object_phrases,
    object_question,
)

ABSENT = 0.2
"""Share of counting questions about an absent thing."""

_MOST_PRESENT, _MOST_ABSENT = 3, 2
_COMMAS = re.compile(r"\s*[,،、]\s*")


@dataclass(frozen=True)
class ObjectAware(QuestionTask):
    """Questions on records with `objects`, in the four forms of PaLI and PaliGemma.

    "What objects are in the image?", "Is {thing} in the image?", "Which of {thing}, {thing} are in the image?" and
    "How many {thing}?" (Chen et al. 2022, section 3.3; Beyer et al. 2024, section 3.2.5). Absent things come
    from the record's `absent`, or from `things`; without either there are no questions about presence.

    Attributes:
        kinds: of questions, of `list`, `presence`, `which` and `count`.
        languages: of the questions, one drawn for each example. The papers use English.
        answer_language: of the answers; None for that of the question.
        things: all names that the source annotates, such as COCO's categories: those without an object on an image are
            absent. In the single language of questions and answers.
    """

    kinds: tuple[str, ...] = OBJECT_KINDS
    languages: tuple[str, ...] = ("en",)
    answer_language: str | None = None
    things: tuple[str, ...] = ()
    max_new_tokens: int = 32
    name: str = "object_aware"

    def __post_init__(self) -> None:
        set_tuples(self, "things")
        self.check_options(OBJECT_KINDS, object_phrases)
        if self.things and len({*self.languages, self.answer_language or self.languages[0]}) > 1:
            raise ValueError("things are names in one language: ask and answer in that one, or leave them out")

    def draw_question(self, record: dict[str, Any], rng: random.Random) -> QuestionAnswer | None:
        """A question of a random kind among those that the record allows in a random language."""
        language = rng.choice(self.languages)
        scene = _scene(record, language, self.answer_language or language, self.things)
        if scene is None:
            return None
        for kind in rng.sample(self.kinds, len(self.kinds)):
            found = _QUESTIONS[kind](scene, rng)
            if found is not None:
                text, answer, about = found
                items = [item for item in scene.objects if item["names"][language] in about]
                boxes = tuple(item["box"] for item in items if item.get("box"))
                return QuestionAnswer(kind, text, answer, language, scene.reply, boxes)
        return None

    def prediction(self, text: str, example: Example) -> str:
        """The stripped text; the items of a list sorted, since any order is correct."""
        return _in_order(text, example)

    def reference(self, example: Example) -> list[str]:
        """The correct answer in the same form."""
        return [_in_order(text, example) for text in example.references]


@dataclass(frozen=True)
class _Scene:
    """Present and absent things of an image: names in the question's language to names in the answer's."""

    language: str
    reply: str
    objects: list[dict[str, Any]]
    crowds: tuple[str, ...]
    present: dict[str, str]
    absent: dict[str, str]

    def question(self, kind: str, *things: str) -> str:
        return object_question(kind, self.language, *things, comma=phrases(self.language)["comma"])

    def listed(self, answers: list[str]) -> str:
        return phrases(self.reply)["comma"].join(answers)


def _scene(record: dict[str, Any], language: str, reply: str, things: tuple[str, ...]) -> _Scene | None:
    """The scene of a record; None when an object lacks a name in a language, since lists and counts would be wrong."""
    objects = list(record["objects"])
    if all(item.get("box") for item in objects):
        objects.sort(key=reading_order)
    # crowds are present in unknown number, with a name in one language
    crowds = tuple(record.get("crowds") or ())
    if any(not item.get("names", {}).get(key) for item in objects for key in (language, reply)) or (
        crowds and language != reply
    ):
        return None
    present = {item["names"][language]: item["names"][reply] for item in objects} | {name: name for name in crowds}
    others = [(item["names"].get(language), item["names"].get(reply)) for item in record.get("absent") or ()]
    others += [(name, name) for name in things]
    absent = {name: answer for name, answer in others if name and answer and name not in present}
    return _Scene(language, reply, objects, crowds, present, absent)


def _list(scene: _Scene, rng: random.Random) -> Any:
    if not scene.present:
        return None
    answers = list(dict.fromkeys(scene.present.values()))
    return scene.question("list"), scene.listed(answers), list(scene.present)


def _presence(scene: _Scene, rng: random.Random) -> Any:
    """Yes and no have equal probability."""
    if not scene.absent:
        return None
    there = bool(scene.present) and rng.random() < 0.5
    name = rng.choice(list(scene.present if there else scene.absent))
    return scene.question("presence", name), phrases(scene.reply)["yes_no"][0 if there else 1], [name]


def _which(scene: _Scene, rng: random.Random) -> Any:
    """At least one present and one absent thing in random order, which the answer keeps."""
    if not scene.present or not scene.absent:
        return None
    there = rng.sample(list(scene.present), rng.randint(1, min(len(scene.present), _MOST_PRESENT)))
    names = there + rng.sample(list(scene.absent), rng.randint(1, min(len(scene.absent), _MOST_ABSENT)))
    rng.shuffle(names)
    answers = [scene.present[name] for name in names if name in there]
    return scene.question("which", *names), scene.listed(list(dict.fromkeys(answers))), there


def _count(scene: _Scene, rng: random.Random) -> Any:
    """The count of a present thing without a crowd, or of an absent one."""
    known = [name for name in scene.present if name not in scene.crowds]
    absent = bool(scene.absent) and (rng.random() < ABSENT or not known)
    if not known and not absent:
        return None
    name = rng.choice(list(scene.absent) if absent else known)
    number = sum(item["names"][scene.language] == name for item in scene.objects)
    return scene.question("count", name), str(number), [name]


def _in_order(text: str, example: Example) -> str:
    if example.meta["kind"] not in ("list", "which"):
        return text.strip()
    return ", ".join(sorted(part for part in _COMMAS.split(text.strip()) if part))


_QUESTIONS: dict[str, Callable[[_Scene, random.Random], Any]]
_QUESTIONS = {"list": _list, "presence": _presence, "which": _which, "count": _count}
