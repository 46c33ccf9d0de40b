"""`answer {lang} {question}`, with pairs of the record, or generated from captions by rules (VQ2A)."""

import random
from dataclasses import dataclass
from typing import Any

from openpali.data.sources.builtin.phrases import caption, phrases, question
from openpali.data.tasks.parts.caption_questions import KINDS as ENGLISH_KINDS
from openpali.data.tasks.parts.caption_questions import caption_questions
from openpali.data.tasks.parts.captions import captions_in, counted
from openpali.data.tasks.parts.questions import QuestionAnswer, QuestionTask, object_phrases, object_question

STORED = "stored"
KINDS = (*ENGLISH_KINDS, "presence", "besides", STORED)

_Pair = tuple[str, str, str]


@dataclass(frozen=True)
class Vq2a(QuestionTask):
    """Questions of records that have `captions`, which answer them, or `questions` of their own.

    Captions in the form of the built-in images are parsed in 14 languages: the question comes from the caption in one
    language, the answer from that in another. Other captions are parsed in English only, by `caption_questions`, for
    questions and answers in English.

    A record's `questions` (`[{"question", "answer", "language"}]`), as a language model makes them in advance, are one
    kind beside those of the rules: `stored`.

    Attributes:
        kinds: of questions.
        languages: of the questions, one drawn for each example among those that the record allows.
        answer_language: of the answers; None for that of the question. PaLI and PaliGemma use English.
    """

    kinds: tuple[str, ...] = KINDS
    languages: tuple[str, ...] = ("en",)
    answer_language: str | None = "en"
    max_new_tokens: int = 24
    name: str = "vq2a"

    def __post_init__(self) -> None:
        self.check_options(KINDS, object_phrases)

    def draw_question(self, record: dict[str, Any], rng: random.Random) -> QuestionAnswer | None:
        """A question of a random kind among those that a caption answers and those of the record."""
        for language in rng.sample(self.languages, len(self.languages)):
            reply = self.answer_language or language
            pairs = [pair for pair in self._pairs(record, language, reply, rng) if pair[0] in self.kinds]
            if pairs:
                kind = rng.choice(sorted({kind for kind, _, _ in pairs}))
                text, answer = rng.choice([(text, answer) for found, text, answer in pairs if found == kind])
                return QuestionAnswer(kind, text, answer, language, reply)
        return None

    def _pairs(self, record: dict[str, Any], language: str, reply: str, rng: random.Random) -> list[_Pair]:
        """Pairs of the record, and of the first caption with any, in random order of the captions."""
        stored = _stored(record, language, reply)
        return stored if stored and not record.get("captions") else stored + self._ruled(record, language, reply, rng)

    def _ruled(self, record: dict[str, Any], language: str, reply: str, rng: random.Random) -> list[_Pair]:
        answers = _counts(record, reply)
        for text in rng.sample(found := captions_in(record, language), len(found)):
            counts = _read(record, text, language)
            if counts is not None:
                return _from_counts(counts, answers, record, language, reply)
            pairs = caption_questions(text) if language == reply == "en" else []
            if pairs:
                return [(pair.kind, pair.question, pair.answer) for pair in pairs]
        return []


def _stored(record: dict[str, Any], language: str, reply: str) -> list[_Pair]:
    """The record's own pairs; question and answer are in one language."""
    own = record.get("questions") or ()
    return [(STORED, one["question"], one["answer"]) for one in own if one["language"] == language == reply]


def _read(record: dict[str, Any], text: str, language: str) -> list[tuple[str, int]] | None:
    names = [name for item in record.get("objects") or () if (name := item.get("names", {}).get(language))]
    return counted(text, names, language) if names else None


def _counts(record: dict[str, Any], language: str) -> list[tuple[str, int]] | None:
    """The counts of the first caption in a language that can be parsed."""
    read = (_read(record, text, language) for text in captions_in(record, language))
    return next((counts for counts in read if counts is not None), None)


def _from_counts(
    counts: list[tuple[str, int]],
    answers: list[tuple[str, int]] | None,
    record: dict[str, Any],
    language: str,
    reply: str,
) -> list[_Pair]:
    """Pairs from a caption and its translation; none where the two do not name the same things in the same order."""
    names = [item.get("names", {}) for item in record["objects"]]
    things = {(name.get(language), name.get(reply)) for name in names}
    if answers is None or len(counts) != len(answers):
        return []
    if any(one[1] != other[1] or (one[0], other[0]) not in things for one, other in zip(counts, answers)):
        return []
    pairs = [("count", question("count", language, thing=name), str(number)) for name, number in counts]
    if len(counts) == 1:
        if counts[0][1] == 1:
            pairs.append(("what", question("what", language), answers[0][0]))
    else:
        for at, (name, number) in enumerate(counts):
            rest = dict(answers[:at] + answers[at + 1 :])
            thing = caption({name: number}, language)
            pairs.append(("besides", object_question("besides", language, thing), caption(rest, reply)))
    return pairs + _presence(counts, record, language, reply)


def _presence(counts: list[tuple[str, int]], record: dict[str, Any], language: str, reply: str) -> list[_Pair]:
    """As many present as absent things, so that both answers have the same probability."""
    present = [name for name, _ in counts]
    absent = [name for item in record.get("absent") or () if (name := item["names"].get(language))]
    absent = [name for name in absent if name not in present]
    each = min(len(present), len(absent))
    yes, no = phrases(reply)["yes_no"]
    pairs = [(name, yes) for name in present[:each]] + [(name, no) for name in absent[:each]]
    return [("presence", question("presence", language, thing=name), answer) for name, answer in pairs]
