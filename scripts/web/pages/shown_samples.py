"""Samples of a made set for a page: which ones, and their cards, with pictures read again from the raw shards."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from openpali.data.files.tar_shards import read_samples
from openpali.data.records import BadRecord
from openpali.data.sources.webdataset import images_of, texts_of
from openpali.eval.prompts.language_names import LANGUAGE_NAMES
from openpali.eval.report.cards import cut, size_of
from openpali.eval.report.layers import draw_layers, reduced
from openpali.scripts.web.pages.made_set import MadeSet

SIDE = 240  # pixels of a picture on the page
LONGEST = 60  # letters of a value on the page; hashes are longer, and say nothing
NAMES = {"of": "repeats"}
"""Of values, in words."""
KEPT = ("", "")
"""In place of step and reason, of samples that all steps have kept."""


@dataclass
class Shown:
    """A sample for the page.

    Attributes:
        step: that dropped it; empty where none did.
        drop: the reason.
        labels: of all steps up to that one.
        models: behind them.
        values: of that step, and a score.
    """

    step: str = ""
    drop: str = ""
    labels: dict[str, Any] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)


def in_fixed_order(names: Iterable[str]) -> list[str]:
    """Names in an order that has nothing to do with their content, and is always the same."""
    return sorted(names, key=lambda name: sha256(name.encode()).digest())


def numbers_in_fixed_order(keys: dict[int, str]) -> list[int]:
    """Numbers of samples in such an order of their keys."""
    return sorted(keys, key=lambda number: sha256(keys[number].encode()).digest())


def choose(made: MadeSet, shard: str, most: int) -> dict[int, Shown]:
    """Samples of a shard to show, by number: at most so many of a reason, and of those that all steps have kept."""
    alive: dict[int, Shown] = {}
    keys: dict[int, str] = {}
    chosen: dict[int, Shown] = {}
    for step in made.steps:
        rows = {row["number"]: row for row in made.table(step, shard)}
        keys |= {number: row["key"] for number, row in rows.items()}
        taken: Counter[str] = Counter()
        for number in numbers_in_fixed_order({number: row["key"] for number, row in rows.items()}):
            one, row = alive.pop(number, Shown()), rows[number]
            score = {"score": one.values["score"]} if "score" in one.values else {}
            values = score | row["values"]
            one = Shown(step, row["drop"], one.labels | row["labels"], one.models | row["models"], values)
            if not one.drop:
                alive[number] = one
            elif taken[one.drop] < most:
                taken[one.drop] += 1
                chosen[number] = one
    for number in numbers_in_fixed_order({number: keys[number] for number in alive})[:most]:
        alive[number].step = ""
        chosen[number] = alive[number]
    return chosen


def read_cards(url: str, name: str, chosen: dict[int, Shown], language: str) -> Iterator[tuple[Shown, dict[str, Any]]]:
    """The chosen samples of a raw shard, each with its card; `language` is that of captions without one."""
    for sample in read_samples(url, name, wanted=chosen.__contains__):
        shown = chosen[sample.place.number]
        try:
            record = texts_of(sample, language, required=False) | images_of(sample)
        except BadRecord:
            # the shard has changed since, or is damaged
            continue
        yield shown, make_card(f"{name}:{sample.key}", record | shown.labels, shown)


def make_card(name: str, record: dict[str, Any], shown: Shown) -> dict[str, Any]:
    """A sample with its picture, captions, and what the step said."""
    drawing = draw_layers(reduced(record["image"], SIDE), [], boxes_of(shown.labels))
    captions = [
        {"language": language, "name": LANGUAGE_NAMES.get(language, ""), "text": cut(str(text))}
        for language, texts in record.get("captions", {}).items()
        for text in ([texts] if isinstance(texts, str) else texts)
    ]
    asked = [f"{one['question']} {one['answer']}" for one in shown.labels.get("questions") or ()]
    shorts = {NAMES.get(key, key): short(value) for key, value in shown.values.items()}
    values = {key: value for key, value in shorts.items() if len(value) <= LONGEST}
    origin = {key: cut(str(record[key])) for key in ("license", "source") if record.get(key)}
    models = dict(sorted(shown.models.items()))
    texts = [name, *(one["text"] for one in captions), *asked, *values.values(), *origin.values(), *models.values()]
    return {
        "id": name,
        "step": shown.step,
        "drawing": drawing,
        "size_in_pixels": f"{record['image'].width} × {record['image'].height}",
        "captions": captions,
        "questions": asked,
        "values": values | origin,
        "models": models,
        "size": size_of(texts, [drawing]),
    }


def boxes_of(labels: dict[str, Any]) -> list[dict[str, Any]]:
    """Words and objects that steps have found, for drawing."""
    words = [(word.get("box"), str(word["text"]), None) for word in labels.get("words") or ()]
    things = [(one.get("box"), thing_name(one), one.get("mask")) for one in labels.get("objects") or ()]
    return [{"box": box, "label": label, "mask": mask} for box, label, mask in [*words, *things] if box]


def thing_name(thing: dict[str, Any]) -> str:
    """The English name of an object, or another one."""
    names = thing.get("names") or {}
    return str(names.get("en") or next(iter(names.values()), thing.get("concept", "")))


def short(value: Any) -> str:
    """A value of a table on the page."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def within(cards: list[dict[str, Any]], budget: int) -> list[dict[str, Any]]:
    """The first cards that together are no larger than so many bytes."""
    found, left = [], budget
    for card in cards:
        left -= card["size"]
        if left < 0:
            break
        found.append(card)
    return found
