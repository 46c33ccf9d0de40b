"""Retrieval examples for the report: images with their nearest texts, and texts with their nearest images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from openpali.data.sources import Source
from openpali.eval.image_encoders.records import EncoderData, StreamedSource, images_at
from openpali.eval.image_encoders.scores import EncoderScores
from openpali.eval.prompts.language_names import language_name
from openpali.eval.report.layers import data_uri
from openpali.eval.scoring.recall import nearest

QUERIES, NEAREST = 8, 5
LONGEST = 240  # pixels; larger images are reduced, so that the page stays small


@dataclass(frozen=True)
class LanguageTexts:
    """The distinct texts of one language.

    Attributes:
        code: of the language.
        rows: index of each text in the list of all texts.
        owners: images of each text.
        images: images with a text in this language.
    """

    code: str
    rows: list[int]
    owners: list[set[int]]
    images: list[int]


def galleries(
    scores: EncoderScores, data: EncoderData, source: Source | StreamedSource
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Cards of image queries and of text queries, evenly spread over languages and images, not selected by score."""
    languages = by_language(data)
    image_cards, text_cards = [], []
    for number in range(QUERIES):
        one = languages[number * len(languages) // QUERIES]
        # text queries in other languages than image queries, where there are enough; the first in English too
        other = languages[(number * len(languages) + (len(languages) // 2 if number else 0)) // QUERIES]
        image_cards.append(image_card(scores, data, evenly_spaced(one.images, number, 0.5), one))
        text_cards.append(text_card(scores, data, evenly_spaced(range(len(other.rows)), number, 0.25), other))
    add_images(image_cards + text_cards, data, source)
    return image_cards, text_cards


def by_language(data: EncoderData) -> list[LanguageTexts]:
    """Distinct texts by language, English first, so that most readers understand a card of each kind."""
    owners: dict[str, dict[str, set[int]]] = {}
    rows: dict[tuple[str, str], int] = {}
    for row, (text, image, code) in enumerate(zip(data.texts, data.text_image, data.text_language, strict=True)):
        owners.setdefault(code, {}).setdefault(text, set()).add(image)
        rows.setdefault((code, text), row)
    return [
        LanguageTexts(code, [rows[code, text] for text in owners[code]], list(owners[code].values()), images)
        for code in sorted(owners, key=lambda code: (code != "en", code))
        for images in [sorted(set().union(*owners[code].values()))]
    ]


def evenly_spaced(items: Sequence[int], number: int, shift: float) -> int:
    """Item `number` of `QUERIES` at equal distances, the first at `shift` of a distance from the start."""
    return items[int((number + shift) * len(items) / QUERIES)]


def image_card(scores: EncoderScores, data: EncoderData, query: int, language: LanguageTexts) -> dict[str, Any]:
    """Card of an image and its nearest texts of one language."""
    right = torch.tensor([query in images for images in language.owners])
    order = rank_candidates(scores.image_embeds[query], scores.text_embeds[language.rows], right)
    answers = [{"text": data.texts[language.rows[place]], **more} for place, more in order["answers"]]
    own = data.texts[language.rows[order["first"]]]
    return card_header(language, order, len(right)) | {"image": query, "answers": answers, "own": own}


def text_card(scores: EncoderScores, data: EncoderData, number: int, language: LanguageTexts) -> dict[str, Any]:
    """Card of a text and its nearest images, among those with a text in its language."""
    row = language.rows[number]
    right = torch.tensor([image in language.owners[number] for image in language.images])
    order = rank_candidates(scores.text_embeds[row], scores.image_embeds[language.images], right)
    answers = [{"image": language.images[place], **more} for place, more in order["answers"]]
    own = language.images[order["first"]]
    return card_header(language, order, len(right)) | {"text": data.texts[row], "answers": answers, "image": own}


def card_header(language: LanguageTexts, order: dict[str, Any], of: int) -> dict[str, Any]:
    """Values that both kinds of card share."""
    name = language_name(language.code)
    kind = "right" if order["rank"] == 1 else "partly" if order["rank"] <= NEAREST else "wrong"
    return {"language": name, "code": language.code, "rank": order["rank"], "of": of, "kind": kind}


def rank_candidates(query: torch.Tensor, candidates: torch.Tensor, right: torch.Tensor) -> dict[str, Any]:
    """The nearest candidates of one query, the 1-based `rank` of the first match, and its index `first`.

    Args:
        query: float[D].
        candidates: float[c, D].
        right: bool[c], the matches.
    """
    places, scores = (one[0].tolist() for one in nearest(query[None], candidates, len(candidates)))
    rank = next(i for i, place in enumerate(places) if right[place])
    best = zip(places[:NEAREST], scores)
    answers = [(place, {"right": bool(right[place]), "score": score}) for place, score in best]
    return {"answers": answers, "rank": rank + 1, "first": places[rank]}


def add_images(cards: Sequence[dict[str, Any]], data: EncoderData, source: Source | StreamedSource) -> None:
    """Replace the indices of images in all cards by `data:` URIs."""
    items = [item for card in cards for item in (card, *card["answers"]) if "image" in item]
    images = images_at(source, [data.places[item["image"]] for item in items])
    uris = {place: data_uri(thumbnail(image)) for place, image in images.items()}
    for item in items:
        item["image"] = uris[data.places[item["image"]]]


def thumbnail(image: Image.Image) -> Image.Image:
    """A copy of at most `LONGEST` pixels on a side."""
    copy = image.copy()
    copy.thumbnail((LONGEST, LONGEST))
    return copy
