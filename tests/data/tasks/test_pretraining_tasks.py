"""Prompts and targets of the tasks of stages 1 and 2, on records written by hand and on the built-in images."""

import random
from collections import Counter

import pytest
from PIL import Image

from openpali.data.example import Box
from openpali.data.mixture import TaskDataset
from openpali.data.sources.builtin.emoji import EmojiScenes
from openpali.data.sources.builtin.phrases import LANGUAGES, phrases
from openpali.data.tasks import load_task
from openpali.data.tasks.ocr import raster_order, skip_snippets
from openpali.data.tasks.parts.questions import OBJECT_KINDS, object_phrases, object_question

IMAGE = Image.new("RGB", (8, 8))
NAMES = {
    "dog": {"en": "dog", "de": "hund", "zh": "狗"},
    "cat": {"en": "cat", "de": "katze", "zh": "猫"},
    "car": {"en": "car", "de": "auto", "zh": "汽车"},
}


def thing(name, x=0.1):
    return {"concept": name, "names": NAMES[name], "box": Box(x, 0.1, x + 0.1, 0.2, name)}


def record(**parts):
    return {"id": "1", "image": IMAGE, **parts}


SCENE = record(
    objects=[thing("dog"), thing("dog", 0.3), thing("cat", 0.5)],
    absent=[thing("car")],
    captions={"en": "two dogs and cat", "de": "hund (zwei) und katze", "zh": "两个狗和猫"},
)


def made(task, data, times=200):
    """Prefixes and suffixes over many draws; each draw twice, since it must come out the same."""
    loaded = load_task(task)
    found = [loaded.example(data, random.Random(n)) for n in range(times)]
    assert found == [loaded.example(data, random.Random(n)) for n in range(times)]
    assert all(example.references == (example.suffix,) for example in found)
    return {(example.prefix, example.suffix) for example in found}


def test_splitcap_gives_every_beginning_and_its_rest():
    data = record(captions={"en": "two red dogs", "zh": "两个狗"})
    assert made({"name": "splitcap", "languages": []}, data) == {
        ("caption en", "two red dogs"),
        ("caption en two", "red dogs"),
        ("caption en two red", "dogs"),
        ("caption zh", "两个狗"),
        ("caption zh 两", "个狗"),
        ("caption zh 两个", "狗"),
    }
    assert made({"name": "splitcap"}, record(captions={"en": ["dog", " "]})) == {("caption en", "dog")}
    cuts = Counter(load_task({"name": "splitcap"}).example(data, random.Random(n)).suffix for n in range(3000))
    assert max(cuts.values()) < 1.15 * min(cuts.values())


def test_captions_of_any_language_and_of_several_images():
    several = {"id": "1", "images": [IMAGE, IMAGE], "captions": {"sw": "mbwa", "te": ["కుక్క", ""]}}
    for name in ("caption", "splitcap"):
        assert made({"name": name, "languages": []}, several) == {("caption sw", "mbwa"), ("caption te", "కుక్క")}
        assert load_task({"name": name}).example(several, random.Random(0)) is None
        example = load_task({"name": name, "languages": "sw"}).example(several, random.Random(0))
        assert len(example.images) == 2


def test_object_aware_questions_are_worded_as_in_paligemma():
    assert made({"name": "object_aware", "kinds": "list"}, SCENE) == {
        ("answer en What objects are in the image?", "dog, cat")
    }
    assert made({"name": "object_aware", "kinds": "presence"}, SCENE) == {
        ("answer en Is dog in the image?", "yes"),
        ("answer en Is cat in the image?", "yes"),
        ("answer en Is car in the image?", "no"),
    }
    assert made({"name": "object_aware", "kinds": "count"}, SCENE) == {
        ("answer en How many dog?", "2"),
        ("answer en How many cat?", "1"),
        ("answer en How many car?", "0"),
    }
    found = made({"name": "object_aware", "kinds": "which"}, SCENE)
    assert ("answer en Which of dog, car are in the image?", "dog") in found
    assert ("answer en Which of cat, car, dog are in the image?", "cat, dog") in found
    # two things in any order, and both of them with the one that is not there
    assert len(found) == 2 + 2 + 6


def test_object_aware_questions_in_other_languages():
    german = {"name": "object_aware", "languages": ["de"]}
    assert made({**german, "kinds": "which", "answer_language": "en"}, SCENE) >= {
        ("answer en was davon ist auf dem bild: auto, hund?", "dog")
    }
    assert ("answer de wie oft ist zu sehen: hund?", "2") in made(german, SCENE)
    assert made({"name": "object_aware", "languages": "zh", "kinds": "list"}, SCENE) == {
        ("answer zh 图片里有哪些东西？", "狗、猫")
    }


def test_lists_are_right_in_any_order():
    task = load_task({"name": "object_aware", "kinds": ["list"]})
    example = task.example(SCENE, random.Random(0))
    assert task.prediction(" cat ,dog", example) == task.reference(example)[0] == "cat, dog"
    assert task.prediction("dog", example) != "cat, dog"
    chinese = load_task({"name": "object_aware", "kinds": ["list"], "languages": "zh"})
    example = chinese.example(SCENE, random.Random(0))
    assert [chinese.prediction("猫、狗", example)] == chinese.reference(example)


def test_objects_without_absent_things_or_with_crowds():
    bare = record(objects=[thing("dog"), thing("cat")], crowds=["man"])
    assert made({"name": "object_aware"}, bare) == {
        ("answer en What objects are in the image?", "dog, cat, man"),
        ("answer en How many dog?", "1"),
        ("answer en How many cat?", "1"),
    }
    named = {"name": "object_aware", "kinds": "presence", "things": ["dog", "bus", "man"]}
    assert ("answer en Is bus in the image?", "no") in made(named, bare)
    assert ("answer en Is man in the image?", "yes") in made(named, bare)
    for data in (record(objects=[]), record(objects=[thing("dog")]), bare | {"objects": [], "crowds": ["man"]}):
        assert load_task({"name": "object_aware", "kinds": ["which"]}).example(data, random.Random(0)) is None
    # a thing without a name would be missing from a list
    assert load_task({"name": "object_aware", "languages": "fr"}).example(SCENE, random.Random(0)) is None
    nameless = record(objects=[{"box": Box(0, 0, 1, 1)}], captions={"en": "dog"})
    assert all(
        load_task({"name": name}).example(nameless, random.Random(0)) is None for name in ("object_aware", "vq2a")
    )
    boxless = record(objects=[{"names": NAMES["dog"]}])
    example = load_task({"name": "object_aware", "kinds": "list"}).example(boxless, random.Random(0))
    assert (example.suffix, example.boxes) == ("dog", ())
    crossed = {"name": "object_aware", "languages": "de", "answer_language": "en"}
    assert load_task(crossed).example(bare, random.Random(0)) is None


@pytest.mark.parametrize("language", LANGUAGES)
def test_questions_about_objects_in_every_language(language):
    words = object_phrases(language)
    assert set(words) == set(OBJECT_KINDS if language == "en" else ("list", "which")) | {"besides"}
    asked = [object_question(kind, language, "X", "Y") for kind in (*OBJECT_KINDS, "besides")]
    assert len(set(asked)) == len(asked)
    assert all("{" not in text for text in asked)
    assert "X, Y" in object_question("which", language, "X", "Y")
    assert all(("X" in text) == (at > 0) for at, text in enumerate(asked))


def test_pairs_from_a_built_in_caption():
    assert made({"name": "vq2a"}, SCENE) == {
        ("answer en how many dogs are there?", "2"),
        ("answer en how many cats are there?", "1"),
        ("answer en what is there besides two dogs?", "cat"),
        ("answer en what is there besides cat?", "two dogs"),
        ("answer en is there a picture of dog?", "yes"),
        ("answer en is there a picture of car?", "no"),
    }
    one = record(objects=[thing("dog")], captions={"en": "dog", "de": "hund"})
    assert ("answer de was ist das?", "hund") in made(
        {"name": "vq2a", "languages": "de", "answer_language": None}, one
    )


def test_pairs_across_languages():
    assert made({"name": "vq2a", "languages": ["de", "zh"], "kinds": ["besides", "count"]}, SCENE) == {
        ("answer en was ist noch zu sehen außer: hund (zwei)?", "cat"),
        ("answer en was ist noch zu sehen außer: katze?", "two dogs"),
        ("answer en wie oft ist zu sehen: hund?", "2"),
        ("answer en wie oft ist zu sehen: katze?", "1"),
        ("answer en 除了两个狗还有什么？", "cat"),
        ("answer en 除了猫还有什么？", "two dogs"),
        ("answer en 有几个狗？", "2"),
        ("answer en 有几个猫？", "1"),
    }
    # what the two captions count must be the same, in the same order
    for other in ("katze und hund (zwei)", "hund und katze", "hund (zwei)", "hunde auf gras"):
        data = SCENE | {"captions": {"en": "two dogs and cat", "de": other}}
        assert load_task({"name": "vq2a", "languages": "de"}).example(data, random.Random(0)) is None


def test_pairs_from_captions_of_any_source():
    data = record(captions={"en": ["", "unclear", "a man riding a white horse"], "de": "ein mann auf einem pferd"})
    assert made({"name": "vq2a"}, data) == {
        ("answer en what is the man doing?", "riding a white horse"),
        ("answer en what is the man riding?", "white horse"),
        ("answer en which colour is the horse?", "white"),
    }
    assert load_task({"name": "vq2a", "languages": "de"}).example(data, random.Random(0)) is None
    assert load_task({"name": "vq2a"}).example(record(captions={"en": "wow"}), random.Random(0)) is None
    assert load_task({"name": "vq2a", "kinds": "where"}).example(data, random.Random(0)) is None


def test_pairs_of_the_record_stand_beside_those_of_the_rules():
    own = [
        {"question": "who rides?", "answer": "a man", "language": "en"},
        {"question": "wer reitet?", "answer": "ein mann", "language": "de"},
    ]
    ruled = {("answer en which colour is the horse?", "white")}
    data = record(captions={"en": "on a white horse"}, questions=own)
    assert made({"name": "vq2a"}, data) == ruled | {("answer en who rides?", "a man")}
    assert made({"name": "vq2a", "kinds": "stored"}, data) == {("answer en who rides?", "a man")}
    assert made({"name": "vq2a", "kinds": "colour"}, data) == ruled
    assert made({"name": "question", "kinds": "stored"}, data) == {("question en a man", "who rides?")}
    # question and answer are in one language
    same = {"name": "vq2a", "languages": ["de"], "answer_language": None}
    assert made(same, data) == {("answer de wer reitet?", "ein mann")}
    assert load_task({"name": "vq2a", "languages": "de"}).example(data, random.Random(0)) is None
    # without captions, and without pairs
    assert made({"name": "vq2a"}, record(questions=own)) == {("answer en who rides?", "a man")}
    assert load_task({"name": "vq2a", "kinds": "stored"}).example(SCENE, random.Random(0)) is None


def test_questions_are_those_of_another_task_turned_round():
    assert ("question en two dogs", "what is there besides cat?") in made({"name": "question"}, SCENE)
    assert ("question zh yes", "有狗吗？") in made({"name": "question", "languages": ["zh"]}, SCENE)
    assert made({"name": "question", "asks": "object_aware", "kinds": ["list"]}, SCENE) == {
        ("question en dog, cat", "What objects are in the image?")
    }
    own = {"name": "question", "languages": ["de"], "answer_language": None, "kinds": ["besides"]}
    assert ("question de hund (zwei)", "was ist noch zu sehen außer: katze?") in made(own, SCENE)
    for asks in ("answer", "vq2a", "object_aware"):
        answered = made({"name": asks, "languages": "de", "answer_language": "en", "kinds": "count"}, SCENE)
        turned = made({"name": "question", "asks": asks, "languages": "de", "kinds": "count"}, SCENE)
        assert turned == {(f"question de {answer}", asked.removeprefix("answer en ")) for asked, answer in answered}


def test_answers_in_english_to_questions_in_other_languages(drawings):
    source = EmojiScenes(objects=(1, 4), length=60, cache_dir=drawings)
    same, crossed = (
        TaskDataset(source, load_task({"name": "answer", "languages": list(LANGUAGES), **options}))
        for options in ({}, {"answer_language": "en"})
    )
    english = set()
    for index in range(60):
        one, other = same[index], crossed[index]
        assert other.prefix.split(" ", 2)[2] == one.prefix.split(" ", 2)[2]
        assert other.prefix.startswith("answer en ")
        english.add(other.suffix)
        if one.meta["kind"] == "presence":
            at = phrases(one.meta["language"])["yes_no"].index(one.suffix)
            assert other.suffix == ("yes", "no")[at]
    assert all(answer.isascii() for answer in english)


@pytest.mark.parametrize(
    "options",
    [
        {"name": "vq2a", "kinds": []},
        {"name": "vq2a", "kinds": ["why"]},
        {"name": "vq2a", "languages": "xx"},
        {"name": "object_aware", "kinds": ["why"]},
        {"name": "object_aware", "answer_language": "xx"},
        {"name": "object_aware", "things": ["dog"], "languages": ["en", "de"]},
        {"name": "question", "asks": "caption"},
        {"name": "question", "asks": "answer", "kinds": ["besides"]},
        {"name": "answer", "answer_language": "xx"},
        {"name": "ocr", "order": "random"},
        {"name": "ocr", "most_characters": 0},
    ],
)
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match=r"kinds|languages?|asks|things|order|most_characters|'xx'"):
        load_task(options)


@pytest.mark.parametrize("name", ["splitcap", "vq2a", "question", "caption"])
def test_records_without_captions_are_said_to_lack_them(name):
    class Bare:
        name = "bare"

        def __len__(self):
            return 1

        def __getitem__(self, index):
            return record(words=[])

    with pytest.raises(ValueError, match=f"'{name}' needs 'captions', which the records of the source 'bare'"):
        _ = TaskDataset(Bare(), load_task({"name": name}))[0]


def word(text, x=0.0, y=0.0):
    return {"text": text, "box": Box(x, y, x + 0.1, y + 0.1)}


def test_words_in_raster_order():
    words = [
        word("d", 0.1, 0.5),
        word("b", 0.5, 0.03),
        word("c", 0.9, 0.0),
        word("a", 0.0, 0.02),
        word("e", 0.4, 0.52),
    ]
    assert [item["text"] for item in raster_order(words)] == ["a", "b", "c", "d", "e"]
    example = load_task({"name": "ocr", "order": "raster"}).example(record(words=words), random.Random(0))
    assert (example.prefix, example.suffix) == ("ocr", "a b c d e")
    assert load_task({"name": "ocr"}).example(record(words=words), random.Random(0)).suffix == "d b c a e"


def test_words_without_boxes_or_text():
    data = record(words=[{"text": " "}, {"text": "exit "}, {"text": "北"}])
    example = load_task({"name": "ocr"}).example(data, random.Random(0))
    assert (example.suffix, example.boxes) == ("exit 北", ())
    for words in ([], None, [{"text": ""}]):
        assert load_task({"name": "ocr"}).example(record(words=words), random.Random(0)) is None
    long = load_task({"name": "ocr", "most_characters": 3})
    assert long.example(record(words=[word("four")]), random.Random(0)) is None
    assert long.example(record(words=[word("four"), word("six")]), random.Random(0)).suffix == "six"


def test_what_is_left_out_fits_and_is_anywhere():
    words = [word(f"w{number:03}") for number in range(200)]
    seen: Counter[str] = Counter()
    for seed in range(400):
        kept = [item["text"] for item in skip_snippets(words, 299, random.Random(seed))]
        text = " ".join(kept)
        assert len(text) <= 299
        assert len(kept) == 60
        assert kept == sorted(kept)
        seen.update(kept)
    # each is kept with a probability of 0.3: 120 times, give or take five deviations of 9.2
    assert len(seen) == 200
    assert max(abs(count - 120) for count in seen.values()) < 46
    assert skip_snippets(words[:3], 14, random.Random(0)) == words[:3]
    task = load_task({"name": "ocr", "most_characters": 299})
    example = task.example(record(words=words), random.Random(0))
    assert len(example.suffix) <= 299
    assert len(example.boxes) == 60
