"""Cards of a gallery: an example with its drawing, its texts, and what the filters of the page read."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from PIL import Image

from openpali.eval.prompts.language_names import LANGUAGE_NAMES
from openpali.eval.report.layers import Drawing, draw_layers

LETTERS = 1000  # of a text on the page
LONG = 240  # letters; a longer text scrolls within its card
AROUND = 1500  # bytes of a card's elements
# first words of prompts whose second word is the language of the answer
WITH_LANGUAGE = ("answer", "caption", "question")


class Group(NamedTuple):
    """Cards under one heading, and how many examples were left out since the page would be too large."""

    heading: str
    cards: list[dict[str, Any]]
    left_out: int


def fill_groups(
    groups: Mapping[str, list[Any]], make: Callable[[Any], dict[str, Any]], budget: int
) -> Iterable[Group]:
    """Make the cards of each group until the page is full.

    Args:
        groups: what cards are made from, by heading.
        make: makes a card with its `size` in bytes.
        budget: bytes; the first of several groups takes two thirds at most.
    """
    left = budget
    for place, (heading, items) in enumerate(groups.items()):
        room = left * 2 // 3 if place < len(groups) - 1 else left
        cards: list[dict[str, Any]] = []
        for item in items:
            card = make(item)
            if card["size"] > room:
                break
            room, left = room - card["size"], left - card["size"]
            cards.append(card)
        if cards:
            yield Group(heading, cards, len(items) - len(cards))


def text_fields(row: Mapping[str, Any]) -> dict[str, Any]:
    """The texts of an example for the templates, cut where they are long."""
    references = cut(" · ".join(str(text) for text in row["references"]))
    fields = {"id": row["id"], "prefix": cut(row["prefix"]), "references": references, "language": language_of(row)}
    return fields | {"image_count": row["pictures"]}


def cut(text: str) -> str:
    """The beginning of a long text."""
    return text if len(text) <= LETTERS else f"{text[:LETTERS]}…"


def size_of(texts: Iterable[str], drawings: Iterable[Drawing | None]) -> int:
    """Bytes of a card on the page."""
    # some stand in the description of the image as well; quotation marks and angle brackets take up to five bytes more
    letters = sum(len(text.encode()) + 5 * sum(map(text.count, "<>&\"'")) for text in texts)
    return AROUND + 2 * letters + sum(drawing.size + len(drawing.words) for drawing in drawings if drawing)


def language_of(row: Mapping[str, Any]) -> str | None:
    """The code of the language of an example's answers, where the prompt or the reference names it."""
    reference, words = row.get("reference"), row["prefix"].split()
    code = reference.get("type") if isinstance(reference, dict) else None
    if code not in LANGUAGE_NAMES and len(words) > 1 and words[0] in WITH_LANGUAGE:
        code = words[1]
    return code if code in LANGUAGE_NAMES else None


def draw_row(
    image: Image.Image | None, row: Mapping[str, Any], found: list[dict[str, Any]] | None = None
) -> Drawing | None:
    """The drawing of an example with its true and its predicted objects, or with others; None without an image."""
    return draw_layers(image, true_objects(row), row["predicted_boxes"] if found is None else found) if image else None


def true_objects(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Ground-truth boxes, with masks where the row has them."""
    masks = row.get("masks") or [None] * len(row["boxes"])
    return [box | {"mask": mask} for box, mask in zip(row["boxes"], masks, strict=True)]
