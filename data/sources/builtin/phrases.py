"""The words of the built-in images: questions, answers, colours, positions and numbers in 14 languages."""

import functools
from importlib.resources import files
from typing import Any

import yaml

LANGUAGES = ("en", "es", "ja", "ko", "pt", "it", "fr", "de", "fa", "id", "zh", "ru", "tr", "ar")
POSITIONS = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "gray")
KINDS = ("what", "count", "colour", "where", "presence")

_PLURALS = {"mouse": "mice", "tooth": "teeth", "die": "dice", "leaf": "leaves", "wolf": "wolves", "scarf": "scarves"}
_PLURALS |= {"cactus": "cacti", "snowman": "snowmen", "tomato": "tomatoes", "potato": "potatoes"}
_UNCHANGED = ("fish", "sheep", "deer", "corn", "broccoli", "bread", "fries", "popcorn", "honey", "cheese")
_UNCHANGED += ("scissors", "glasses", "gloves", "socks", "jeans", "grapes", "cherries", "peanuts", "skis", "soap")
_UNCHANGED += ("lightning", "fire", "wood", "ice", "yarn", "beer", "piano keys", "luggage", "bow and arrow")


def phrases(language: str) -> dict[str, Any]:
    """The templates and words of one language. Raises ValueError for a language without any."""
    return templates("phrases.yaml", language, "phrases")


@functools.cache
def templates(file: str, language: str, what: str) -> dict[str, Any]:
    """The entry of a language in a YAML file of this folder.

    Args:
        file: its name.
        language: the key.
        what: name of the content, for messages.

    Raises:
        ValueError: the file has no such language.
    """
    table = yaml.safe_load((files("openpali.data.sources.builtin") / file).read_text("utf-8"))
    if language not in table:
        raise ValueError(f"no {what} for language {language!r}; there are {', '.join(LANGUAGES)}.")
    return table[language]


def plural(name: str) -> str:
    """The English plural of a concept's name.

    >>> plural("dog"), plural("toothbrush"), plural("ferris wheel"), plural("sheep")
    ('dogs', 'toothbrushes', 'ferris wheels', 'sheep')
    """
    if name in _PLURALS:
        return _PLURALS[name]
    if name in _UNCHANGED:
        return name
    if name.endswith("y") and name[-2] not in "aeiou":
        return name[:-1] + "ies"
    return name + ("es" if name.endswith(("s", "x", "ch", "sh")) else "s")


def position_word(position: str, language: str) -> str:
    """`"top left"` in a language."""
    return phrases(language)["positions"][POSITIONS.index(position)]


def colour_word(colour: str, language: str) -> str:
    """`"red"` in a language."""
    return phrases(language)["colours"][COLOURS.index(colour)]


def question(kind: str, language: str, thing: str = "", position: str = "") -> str:
    """A question of one kind (`KINDS` or `what_at`), with the name of a thing or an English position filled in."""
    where = position_word(position, language) if position else ""
    template: str = phrases(language)[kind]
    return template.format(thing=thing, things=plural(thing) if "{things}" in template else "", position=where)


def caption(counts: dict[str, int], language: str) -> str:
    """The caption of the things on an image, `{name: count}` in reading order.

    >>> caption({"dog": 2, "cat": 1}, "en")
    'two dogs and cat'
    """
    words = phrases(language)
    items = [name if count == 1 else _several(name, count, words) for name, count in counts.items()]
    if len(items) < 2:
        return "".join(items)
    return words["and"].format(first=words["comma"].join(items[:-1]), last=items[-1])


def _several(name: str, count: int, words: dict[str, Any]) -> str:
    template = words["several"]
    things = plural(name) if "{things}" in template else name
    return template.format(number=words["numbers"][count - 1], thing=name, things=things)
