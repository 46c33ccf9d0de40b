"""Images and captions of a record, places to cut a text, and the counts in captions of the built-in images."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from PIL import Image

from openpali.data.sources.builtin.phrases import caption, phrases

# Thai, Lao, Burmese, Khmer, kana, and Chinese characters: no spaces between words
_UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
)
_PUNCTUATION = "、。，；：！？"
# vowels of Thai and Lao that are written before their consonant, and those that are letters but follow it
_LEADING, _FOLLOWING = "เแโใไເແໂໃໄ", "ะาำๅະາຳ"


def record_images(record: dict[str, Any]) -> tuple[Image.Image, ...]:
    """The record's images: `images` where it has several, else `image`."""
    return tuple(record["images"]) if "images" in record else (record["image"],)


def captions_in(record: dict[str, Any], language: str) -> tuple[str, ...]:
    """The non-empty captions of a record in a language, stripped."""
    found = (record["captions"] or {}).get(language) or ()
    found = (found,) if isinstance(found, str) else tuple(found)
    return tuple(text.strip() for text in found if text and text.strip())


def caption_languages(record: dict[str, Any], languages: Sequence[str] = ()) -> list[str]:
    """The languages of a record's captions, restricted to `languages` unless empty."""
    return [language for language in languages or sorted(record["captions"] or {}) if captions_in(record, language)]


def cuts(text: str) -> list[int]:
    """Places to cut a text in two: before each of its words.

    Scripts without spaces between words are cut between any two characters, but never before a combining mark.

    >>> cuts("two dogs"), cuts("两个狗 a")
    ([0, 4], [0, 1, 2, 4])
    """
    return [0, *(at for at in range(1, len(text)) if _may_cut(text, at))]


def _may_cut(text: str, at: int) -> bool:
    before, after = text[at - 1], text[at]
    if before.isspace() or after.isspace():
        return not after.isspace()
    if not ((_UNSPACED.match(before) or before in _PUNCTUATION) and _UNSPACED.match(after)):
        return False
    return (
        before not in _LEADING and after not in _FOLLOWING and not unicodedata.category(after).startswith(("M", "Lm"))
    )


def counted(text: str, names: Sequence[str], language: str) -> list[tuple[str, int]] | None:
    """Names and counts of a caption of the built-in images: the inverse of `phrases.caption`.

    >>> counted("two dogs, bow and arrow and cat", ["dog", "cat", "bow and arrow"], "en")
    [('dog', 2), ('bow and arrow', 1), ('cat', 1)]

    Args:
        text: the caption.
        names: of things that may occur.
        language: of both; one that has phrases.

    Returns:
        Names and numbers in the order of the caption; None when it has another form, or a thing twice.
    """
    words = phrases(language)
    numbers = range(1, len(words["numbers"]) + 1)
    forms = {caption({name: number}, language): (name, number) for name in names for number in numbers}
    between = (words["and"].format(first="", last=""), words["comma"])
    # the longest first, since a name may be a prefix of another
    found = _read(text, sorted(forms, key=len, reverse=True), forms, between)
    return found if found and len(dict(found)) == len(found) else None


def _read(
    text: str, ordered: list[str], forms: dict[str, tuple[str, int]], between: tuple[str, str]
) -> list[tuple[str, int]] | None:
    for form in ordered:
        if text == form:
            return [forms[form]]
        for link in between:
            if text.startswith(form + link):
                rest = _read(text[len(form + link) :], ordered, forms, between)
                if rest is not None:
                    return [forms[form], *rest]
    return None
