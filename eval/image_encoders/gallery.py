"""What an encoder finds: images with their nearest texts, and texts with their nearest images, to be looked at."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from openpali.data.sources import Source
from openpali.eval.image_encoders.records import Collected, StreamedSource, images_at
from openpali.eval.image_encoders.scores import Measured
from openpali.eval.prompts.language_names import language_name
from openpali.eval.report.page import data_uri
from openpali.eval.scoring.recall import nearest

QUERIES, SHOWN = 8, 5
LONGEST = 240  # pixels; larger images are reduced, so that the page stays small


@dataclass(frozen=True)
class OneLanguage:
    """Texts of one language, equal ones together, as a reader takes them.

    Attributes:
        code: of the language.
        rows: of each different text, the number of one that is like it.
        owners: of each different text, the images that have it.
        images: all of them.
    """

    code: str
    rows: list[int]
    owners: list[set[int]]
    images: list[int]


def galleries(
    measured: Measured, found: Collected, source: Source | StreamedSource
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Cards of image queries and of text queries, evenly spread over languages and images, not chosen by score."""
    languages = by_language(found)
    image_cards, text_cards = [], []
    for number in range(QUERIES):
        one = languages[number * len(languages) // QUERIES]
        # texts in other languages than images, where there are enough; the first in English too
        other = languages[(number * len(languages) + (len(languages) // 2 if number else 0)) // QUERIES]
        image_cards.append(image_card(measured, found, evenly(one.images, number, 0.5), one))
        text_cards.append(text_card(measured, found, evenly(range(len(other.rows)), number, 0.25), other))
    add_images(image_cards + text_cards, found, source)
    return image_cards, text_cards


def by_language(found: Collected) -> list[OneLanguage]:
    """Texts of every language; English first, so that most readers understand one of each kind of card."""
    owners: dict[str, dict[str, set[int]]] = {}
    rows: dict[tuple[str, str], int] = {}
    for row, (text, image, code) in enumerate(zip(found.texts, found.text_image, found.text_language, strict=True)):
        owners.setdefault(code, {}).setdefault(text, set()).add(image)
        rows.setdefault((code, text), row)
    return [
        OneLanguage(code, [rows[code, text] for text in owners[code]], list(owners[code].values()), images)
        for code in sorted(owners, key=lambda code: (code != "en", code))
        for images in [sorted(set().union(*owners[code].values()))]
    ]


def evenly(items: Sequence[int], number: int, shift: float) -> int:
    """One of `QUERIES` items with equal distances between them, the first `shift` of a distance from the start."""
    return items[int((number + shift) * len(items) / QUERIES)]


def image_card(measured: Measured, found: Collected, query: int, language: OneLanguage) -> dict[str, Any]:
    """An image and its nearest texts of one language."""
    right = torch.tensor([query in images for images in language.owners])
    order = ranked(measured.image_embeds[query], measured.text_embeds[language.rows], right)
    answers = [{"text": found.texts[language.rows[place]], **more} for place, more in order["answers"]]
    own = found.texts[language.rows[order["first"]]]
    return head(language, order, len(right)) | {"picture": query, "answers": answers, "own": own}


def text_card(measured: Measured, found: Collected, number: int, language: OneLanguage) -> dict[str, Any]:
    """A text and its nearest images, of those that have a text in its language."""
    row = language.rows[number]
    right = torch.tensor([image in language.owners[number] for image in language.images])
    order = ranked(measured.text_embeds[row], measured.image_embeds[language.images], right)
    answers = [{"picture": language.images[place], **more} for place, more in order["answers"]]
    own = language.images[order["first"]]
    return head(language, order, len(right)) | {"text": found.texts[row], "answers": answers, "picture": own}


def head(language: OneLanguage, order: dict[str, Any], of: int) -> dict[str, Any]:
    """What both kinds of card say."""
    name = language_name(language.code)
    kind = "right" if order["rank"] == 1 else "partly" if order["rank"] <= SHOWN else "wrong"
    return {"language": name, "code": language.code, "rank": order["rank"], "of": of, "kind": kind}


def ranked(query: torch.Tensor, candidates: torch.Tensor, right: torch.Tensor) -> dict[str, Any]:
    """The nearest candidates of one query, `rank` of the first right one, from 1, and `first`, its place.

    Args:
        query: float[D].
        candidates: float[c, D].
        right: bool[c].
    """
    places, scores = (one[0].tolist() for one in nearest(query[None], candidates, len(candidates)))
    rank = next(i for i, place in enumerate(places) if right[place])
    shown = zip(places[:SHOWN], scores)
    answers = [(place, {"right": bool(right[place]), "score": score}) for place, score in shown]
    return {"answers": answers, "rank": rank + 1, "first": places[rank]}


def add_images(cards: Sequence[dict[str, Any]], found: Collected, source: Source | StreamedSource) -> None:
    """Put the images of all cards into them as `data:` addresses, in place of their numbers."""
    shown = [item for card in cards for item in (card, *card["answers"]) if "picture" in item]
    images = images_at(source, [found.places[item["picture"]] for item in shown])
    addresses = {place: data_uri(reduced(image)) for place, image in images.items()}
    for item in shown:
        item["picture"] = addresses[found.places[item["picture"]]]


def reduced(image: Image.Image) -> Image.Image:
    """A copy of at most `LONGEST` pixels on a side."""
    copy = image.copy()
    copy.thumbnail((LONGEST, LONGEST))
    return copy
