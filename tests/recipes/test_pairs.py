import pytest
import torch
from PIL import Image

from openpali.data.example import Example
from openpali.recipes.config_file import ConfigError
from openpali.recipes.pairs import PairCollator, Pairs, mean, true_texts


class FakeProcessor:
    """Pixels are the grey of the picture; tokens are the letters of the text."""

    def image_processor(self, images, return_tensors):
        return {"pixel_values": torch.tensor([[float(image.getpixel((0, 0))[0])] for image in images])}

    def tokenizer(self, texts, return_tensors, padding, max_length, truncation):
        return {"input_ids": torch.tensor([[ord(c) for c in text.ljust(max_length)[:max_length]] for text in texts])}


def record(*names, captions=None):
    objects = [{"concept": n, "names": {"en": n, "de": n.upper()}} for n in names]
    captions = captions or {"en": " and ".join(names), "de": " und ".join(names).upper()}
    return {"id": "-".join(names), "image": Image.new("RGB", (4, 4)), "objects": objects, "captions": captions}


def pair(text, true):
    return Example("x", "pairs", (Image.new("RGB", (4, 4)),), "", text, meta={"true": true, "names": []})


def test_every_text_that_is_true_of_a_picture_is_its_positive():
    examples = [pair("dog", ["dog", "dog and cat", "cat"]), pair("dog", ["dog"]), pair("cat", ["cat"])]
    batch = PairCollator(FakeProcessor(), text_length=6)(examples)
    expected = [[True, True, True], [True, True, False], [False, False, True]]
    assert batch["positives"].tolist() == expected
    assert batch["input_ids"].shape == (3, 6)


def test_true_texts_are_all_languages_names_and_captions():
    found = true_texts(record("dog", "cat"), ["en", "de"])
    assert found["names"] == {"en": ["dog", "cat"], "de": ["DOG", "CAT"]}
    assert found["captions"]["de"] == ["DOG UND CAT"]
    assert true_texts({"id": "1", "suffix": "a red one"}, ["en"])["captions"] == {"en": ["a red one"]}


def test_pairs_draw_from_the_texts_and_languages_asked_for():
    from random import Random

    drawn = {Pairs(("de",), ("names",)).example(record("dog", "cat"), Random(i)).suffix for i in range(20)}
    assert drawn == {"DOG", "CAT"}
    both = [Pairs(("en", "de")).example(record("dog", "cat"), Random(i)) for i in range(60)]
    assert {e.suffix for e in both} == {"dog", "cat", "DOG", "CAT", "dog and cat", "DOG UND CAT"}
    assert all(e.suffix in e.meta["true"] for e in both)
    assert Pairs(("en",), ("names",)).example(record(captions={"en": "nothing"}), Random(0)) is None
    with pytest.raises(ConfigError, match="texts are some of captions, names"):
        Pairs(texts=("labels",))


def test_mean():
    assert mean([True, False]) == 0.5
