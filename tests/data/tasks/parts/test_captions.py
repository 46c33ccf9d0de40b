import pytest

from openpali.data.sources.builtin.emoji import EmojiScenes
from openpali.data.sources.builtin.phrases import LANGUAGES, caption
from openpali.data.tasks.parts.captions import caption_languages, captions_in, counted, cuts


def parts(text):
    return [text[:at] for at in cuts(text)]


@pytest.mark.parametrize(
    ("text", "beginnings"),
    [
        ("dog", [""]),
        ("two  red dogs", ["", "two  ", "two  red "]),
        ("don't", [""]),
        ("两个狗", ["", "两", "两个"]),
        ("狗、猫", ["", "狗、"]),
        ("ネコA2匹", ["", "ネ"]),
        # a vowel before its consonant, a mark above one, and a letter that belongs to the one before
        ("เด็กดำ", ["", "เด็", "เด็ก"]),
        ("고양이 두 마리", ["", "고양이 ", "고양이 두 "]),
        ("كلب وقطة", ["", "كلب "]),
    ],
)
def test_cuts_are_before_words_or_characters(text, beginnings):
    assert parts(text) == beginnings


def test_captions_of_a_record_in_any_form():
    record = {"captions": {"en": ["a dog ", "", None], "de": "ein hund", "fr": " ", "es": None, "it": []}}
    assert captions_in(record, "en") == ("a dog",)
    assert captions_in(record, "de") == ("ein hund",)
    assert captions_in(record, "fr") == captions_in(record, "es") == captions_in(record, "xx") == ()
    assert caption_languages(record, ["fr", "en", "xx"]) == ["en"]
    assert caption_languages(record) == ["de", "en"]
    assert caption_languages({"captions": None}) == []
    with pytest.raises(KeyError, match="captions"):
        captions_in({}, "en")


@pytest.mark.parametrize("language", LANGUAGES)
def test_built_in_captions_are_read_in_every_language(language, drawings):
    source = EmojiScenes(objects=(1, 6), length=60, cache_dir=drawings)
    for index in range(60):
        record = source[index]
        names = [item["names"][language] for item in record["objects"]]
        text = record["captions"][language]
        expected = [(name, names.count(name)) for name in dict.fromkeys(names)]
        assert counted(text, names, language) == expected
        assert caption(dict(expected), language) == text


def test_what_says_more_or_less_is_not_read():
    names = ["dog", "bow and arrow", "dog house"]
    assert counted("bow and arrow and two dog houses", names, "en") == [("bow and arrow", 1), ("dog house", 2)]
    for text in ("", "a dog", "dog and", "dog on grass", "cat", "dog and dog", "ten dogs", "two dog"):
        assert counted(text, names, "en") is None
    assert counted("dog", [], "en") is None
