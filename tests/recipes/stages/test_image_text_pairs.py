from random import Random

import pytest
import torch
from PIL import Image
from transformers import SiglipImageProcessorPil

from openpali.data.example import Example
from openpali.data.files.config import ConfigError
from openpali.recipes.stages.image_text_pairs import PairCollator, Pairs, text_key, true_texts


class FakeProcessor:
    """Tokens are the letters of the text."""

    image_processor = SiglipImageProcessorPil(size={"height": 8, "width": 8})

    def tokenizer(self, texts, return_tensors, padding, max_length, truncation):
        return {"input_ids": torch.tensor([[ord(c) for c in text.ljust(max_length)[:max_length]] for text in texts])}


def record(*names, captions=None):
    objects = [{"concept": n, "names": {"en": n, "de": n.upper()}} for n in names]
    captions = captions or {"en": " and ".join(names), "de": " und ".join(names).upper()}
    return {"id": "-".join(names), "image": Image.new("RGB", (4, 4)), "objects": objects, "captions": captions}


def pair(text, true):
    return Example(text, "pairs", (Image.new("RGB", (4, 4)),), "", text, meta={"true": true, "names": []})


def test_every_text_that_is_true_of_a_image_is_its_positive():
    examples = [pair("dog", ["dog", "dog and cat", "cat"]), pair("dog", ["dog"]), pair("cat", ["cat"])]
    batch = PairCollator(FakeProcessor(), text_length=6)(examples)
    expected = [[True, True, True], [True, True, False], [False, False, True]]
    positives = (batch["image_keys"][:, :, None] == batch["text_keys"]).any(1)
    assert positives.tolist() == expected
    assert batch["text_keys"].min() >= 0
    assert batch["input_ids"].shape == (3, 6)
    alone = PairCollator(FakeProcessor(), 6, shared_texts=False)([e for e in examples if e is not examples[1]])
    assert (alone["image_keys"] == alone["text_keys"]).tolist() == [[True, False], [False, True]]


def test_true_texts_are_all_languages_names_and_captions():
    found = true_texts(record("dog", "cat"), ["en", "de"])
    assert found["names"] == {"en": ["dog", "cat"], "de": ["DOG", "CAT"]}
    assert found["captions"]["de"] == ["DOG UND CAT"]
    assert true_texts({"id": "1", "suffix": "a red one"}, ["en"])["captions"] == {"en": ["a red one"]}


def test_pairs_draw_from_the_texts_and_languages_asked_for():
    drawn = {Pairs(("de",), ("names",)).example(record("dog", "cat"), Random(i)).suffix for i in range(20)}
    assert drawn == {"DOG", "CAT"}
    both = [Pairs(("en", "de")).example(record("dog", "cat"), Random(i)) for i in range(60)]
    assert {e.suffix for e in both} == {"dog", "cat", "DOG", "CAT", "dog and cat", "DOG UND CAT"}
    assert all(e.suffix in e.meta["true"] for e in both)
    assert Pairs(("en",), ("names",)).example(record(captions={"en": "nothing"}), Random(0)) is None
    with pytest.raises(ConfigError, match="texts are some of captions, names, keywords"):
        Pairs(texts=("labels",))


def test_several_texts_of_a_image_are_all_its_positives():
    task = Pairs(("en", "de"), ("names",), number=3)
    examples = [task.example(record(name), Random(i)) for i, name in enumerate(("dog", "cat"))]
    # never the same one twice, while there is another language
    assert all(len({e.suffix, *e.meta["more"]}) == 2 for e in examples)
    for shared in (True, False):
        batch = PairCollator(FakeProcessor(), 4, shared_texts=shared)(examples)
        positives = (batch["image_keys"][:, :, None] == batch["text_keys"]).any(1)
        assert positives.tolist() == [[True] * 3 + [False] * 3, [False] * 3 + [True] * 3]
        assert batch["input_ids"].shape == (6, 4)
        assert len(batch["pixel_values"]) == 2


def test_languages_are_drawn_by_weight():
    task = Pairs(("en", "de"), ("names",), {"de": 9})
    drawn = [task.example(record("dog"), Random(i)).suffix for i in range(400)]
    assert 0.85 < drawn.count("DOG") / 400 < 0.95
    # of the languages that the record has, whatever their weights
    only = record("dog", captions={"en": "a dog"})
    assert Pairs(("en", "de"), ("captions",), {"en": 0}).example(only, Random(0)).suffix == "a dog"
    for weights in ({"fr": 1}, {"de": -1}):
        with pytest.raises(
            ConfigError, match="language_weights=.*: give numbers from 0 up for some of the languages en"
        ):
            Pairs(("en", "de"), ("names",), weights)


def test_keywords_are_a_few_of_the_records_in_any_order():
    with_words = record("dog") | {"keywords": {"en": ["pet", "animal", "woof", "fur"]}}
    examples = [Pairs(("en",), ("keywords",)).example(with_words, Random(i)) for i in range(200)]
    drawn = [example.suffix.split(", ") for example in examples]
    assert {len(words) for words in drawn} == {1, 2, 3}
    assert all(len(set(words)) == len(words) and set(words) <= set(with_words["keywords"]["en"]) for words in drawn)
    assert {"pet", "animal"} <= set(examples[0].meta["true"])
    assert Pairs(("en",), ("keywords",)).example(record("dog"), Random(0)) is None


def test_keys_of_texts_are_the_same_everywhere():
    assert text_key("dog") == 2072328596179865167
    assert 0 <= text_key("a") < 2**63
