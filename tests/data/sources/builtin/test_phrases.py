import string
from itertools import combinations

import emoji
import pytest

from openpali.data.sources.builtin.phrases import (
    COLOURS,
    KINDS,
    LANGUAGES,
    POSITIONS,
    caption,
    colour_word,
    phrases,
    plural,
    position_word,
    question,
)

FIELDS = {"what": set(), "what_at": {"position"}, "where": {"thing"}, "colour": {"thing"}, "presence": {"thing"}}


def fields(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name}


def test_the_languages_are_those_of_the_emoji_package():
    assert set(LANGUAGES) == set(emoji.LANGUAGES)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_every_phrase(language):
    words = phrases(language)
    assert set(words) == set(phrases("en"))
    for kind, names in FIELDS.items():
        assert fields(words[kind]) == names
    assert fields(words["count"]) == ({"things"} if language == "en" else {"thing"})
    assert fields(words["several"]) == {"number", "things" if language == "en" else "thing"}
    assert fields(words["and"]) == {"first", "last"}
    for key, expected in {"positions": len(POSITIONS), "colours": len(COLOURS), "numbers": 9, "yes_no": 2}.items():
        assert all(isinstance(word, str) and word.strip() == word != "" for word in words[key])
        # no two answers may look alike
        assert len(set(words[key])) == len(words[key]) == expected


@pytest.mark.parametrize("language", LANGUAGES)
def test_questions_of_different_kinds_differ(language):
    asked = [question(kind, language, thing="X", position="top") for kind in (*KINDS, "what_at")]
    assert len(set(asked)) == len(asked)
    assert all("{" not in text for text in asked)


def test_words_are_not_shared_between_scripts_by_mistake():
    for one, other in combinations(LANGUAGES, 2):
        assert phrases(one)["what"] != phrases(other)["what"]


def test_words_and_captions():
    assert position_word("bottom right", "de") == "unten rechts"
    assert colour_word("purple", "fr") == "violet"
    assert question("count", "en", thing="butterfly") == "how many butterflies are there?"
    assert question("what_at", "es", position="top") == "¿qué hay arriba?"
    assert caption({"dog": 1}, "en") == "dog"
    assert caption({"dog": 2, "cat": 1, "mouse": 3}, "en") == "two dogs, cat and three mice"
    assert caption({"hund": 2, "katze": 1}, "de") == "hund (zwei) und katze"
    assert caption({"狗": 2, "猫": 1}, "zh") == "两个狗和猫"
    assert caption({}, "en") == ""


@pytest.mark.parametrize(
    ("one", "many"),
    [("dog", "dogs"), ("bus", "buses"), ("key", "keys"), ("trophy", "trophies"), ("sheep", "sheep"), ("box", "boxes")],
)
def test_plurals(one, many):
    assert plural(one) == many


def test_an_unknown_language_is_refused():
    with pytest.raises(ValueError, match="no phrases for language 'xx'"):
        phrases("xx")
