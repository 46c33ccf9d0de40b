"""Emoji that are concepts, and their names in 36 languages from Unicode CLDR."""

import json
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from openpali.data.sources.builtin.emoji36_folder import LANGUAGES
from openpali.scripts.emoji36.packages import ANNOTATIONS, DERIVED, FetchError, Package, read_members

VARIATION_SELECTOR, JOINER = "\ufe0f", "\u200d"

_CLDR_CODES = {"quz": "qu"}
_SKIN, _HAIR = range(0x1F3FB, 0x1F400), range(0x1F9B0, 0x1F9B4)
_LETTERS, _TAGS = range(0x1F1E6, 0x1F200), range(0xE0020, 0xE0080)
_KEYCAP, _WOMAN, _MAN, _FACING = 0x20E3, 0x2640, 0x2642, 0x27A1
_SMALLER = frozenset("▪▫◻◼◽◾🔸🔹")
_GENDERED = range(0x1F466, 0x1F46A)  # boy, girl, man, woman


class Naming(NamedTuple):
    """Name and keywords of an emoji in a language."""

    name: str
    keywords: list[str]


def plain(char: str) -> str:
    """An emoji without variation selectors, which only some sources write."""
    return char.replace(VARIATION_SELECTOR, "")


def variant_kind(char: str) -> str | None:
    """The only way in which an emoji differs from another one; None if it is a concept of its own.

    >>> variant_kind("\U0001f44b\U0001f3fb"), variant_kind("\U0001f1eb\U0001f1ee"), variant_kind("\U0001f436")
    ('skin tones', 'flags', None)
    """
    points = [ord(part) for part in char]
    joined = JOINER in char
    tests = {
        "skin tones": any(point in _SKIN for point in points),
        "flags": any(point in _LETTERS or point in _TAGS for point in points),
        "keycaps": _KEYCAP in points,
        "hair": any(point in _HAIR for point in points),
        "gender": joined and (points[0] in _GENDERED or _WOMAN in points or _MAN in points),
        "directions": joined and points[-1] == _FACING,
        # cropped to its visible pixels, a small square looks like a large one
        "sizes": char in _SMALLER,
    }
    return next((kind for kind, found in tests.items() if found), None)


def read_names(folder: Path) -> dict[str, dict[str, Naming]]:
    """Names by language and then by emoji, without variation selectors.

    Args:
        folder: of the packages' archives.

    Raises:
        FetchError: an archive is missing, damaged or of another layout.
    """
    names: dict[str, dict[str, Naming]] = {language: {} for language in LANGUAGES}
    for package, key in ((DERIVED, "annotationsDerived"), (ANNOTATIONS, "annotations")):
        members = {language: f"{key}/{_CLDR_CODES.get(language, language)}/annotations.json" for language in LANGUAGES}
        contents = read_members(folder, package, members.values())
        for language, member in members.items():
            names[language] |= _namings(contents[member], key, package, member)
    return names


def _namings(content: bytes, key: str, package: Package, member: str) -> dict[str, Naming]:
    try:
        table: dict[str, Any] = json.loads(content)[key]["annotations"]
        entries = {plain(char): entry for char, entry in table.items() if entry.get("tts")}
        return {char: Naming(tidy(e["tts"][0]), _keywords(e)) for char, e in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise FetchError(
            f"{package.archive}: {member} is not as CLDR's annotations should be ({error!r}):"
            " its layout is not the one this script knows."
        ) from error


def _keywords(entry: dict[str, Any]) -> list[str]:
    """Keywords other than the name itself, each once."""
    name = tidy(entry["tts"][0])
    return [word for word in dict.fromkeys(map(tidy, entry.get("default", ()))) if word and word != name]


def tidy(text: str) -> str:
    """Composed (NFC), with single plain spaces. Capitals stay: German nouns have them."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def named_everywhere(names: dict[str, dict[str, Naming]]) -> set[str]:
    """Emoji with a name in all languages."""
    return set.intersection(*({char for char, naming in own.items() if naming.name} for own in names.values()))


def collisions(names: dict[str, dict[str, Naming]], chars: list[str]) -> dict[str, list[list[str]]]:
    """By language, groups of emoji with one name, capitals aside; languages without any are left out."""
    found: dict[str, list[list[str]]] = {}
    for language, own in names.items():
        groups: dict[str, list[str]] = defaultdict(list)
        for char in chars:
            groups[own[char].name.casefold()].append(char)
        several = [group for group in groups.values() if len(group) > 1]
        if several:
            found[language] = several
    return found


def variants(chars: set[str]) -> dict[str, int]:
    """Number of emoji that are variants of others, by kind."""
    return dict(Counter(sorted(kind for char in chars if (kind := variant_kind(char)) is not None)))
