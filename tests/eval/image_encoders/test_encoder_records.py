import pytest
import torch
from PIL import Image
from synthetic_captions import xm3600
from tiny_siglip import random_images, tiny_siglip
from transformers import SiglipForImageClassification, SiglipVisionModel

from openpali.data.records import BadRecord, SkipLog
from openpali.data.sources import load_source
from openpali.eval.image_encoders.embedding import image_features
from openpali.eval.image_encoders.models import Encoder, load_encoder, short_names
from openpali.eval.image_encoders.records import (
    captions_of,
    class_of,
    encode_source,
    images_at,
    one_record_an_image,
)


class Numbered:
    """Five records, the second of them bad; `read` counts how often each is read."""

    name = "numbered"

    def __init__(self):
        self.images, self.read = random_images(5), []

    def __len__(self):
        return 5

    def __getitem__(self, index):
        self.read.append(index)
        if index == 1:
            raise BadRecord("numbered", index, "torn")
        captions = {"en": f"text {index}", "de": [f"Text {index}", "gleich", "gleich"], "xx": ""}
        return {"id": str(index), "image": self.images[index], "captions": captions, "concept": f"kind {index % 2}"}


class Streamed:
    """The good records in order, without numbers."""

    name = "streamed"

    def records(self):
        source = Numbered()
        yield from (source[index] for index in (0, 2, 3, 4))


@pytest.fixture(scope="module")
def encoder():
    model, processor = tiny_siglip()
    return Encoder("tiny", model, processor.image_processor, processor.tokenizer, "mean")


def test_records_are_read_once_and_their_texts_kept_by_image(encoder):
    source, skipped = Numbered(), SkipLog()
    found = encode_source(source, [encoder], skipped, batch_size=2)
    assert source.read == [0, 1, 2, 3, 4]
    assert found.places == [0, 2, 3, 4]
    assert len(skipped.read()) == 1
    assert found.texts[:6] == ["text 0", "Text 0", "gleich", "text 2", "Text 2", "gleich"]
    assert found.text_image == [i for i in range(4) for _ in range(3)]
    assert found.text_language == ["en", "de", "de"] * 4
    assert found.languages == ["de", "en"]
    assert found.concepts == ["kind 0", "kind 0", "kind 1", "kind 0"]
    assert found.names["kind 0"] == {
        "en": ["text 0", "text 2", "text 4"],
        "de": ["Text 0", "gleich", "Text 2", "Text 4"],
    }
    good = [source.images[place] for place in found.places]
    for pooling in ("head", "mean"):
        expected = image_features(encoder.model, encoder.image_processor, good, pooling)
        torch.testing.assert_close(found.features["tiny"][pooling], expected, atol=1e-6, rtol=1e-5)


def test_a_stream_gives_the_same_and_its_images_again(encoder):
    stream, source = Streamed(), Numbered()
    found, expected = (encode_source(one, [encoder], SkipLog(), batch_size=3) for one in (stream, source))
    assert found.texts == expected.texts
    torch.testing.assert_close(found.features["tiny"], expected.features["tiny"])
    again = images_at(stream, [found.places[3], found.places[1]])
    same = images_at(source, [expected.places[3], expected.places[1]])
    assert [image.tobytes() for image in again.values()] == [image.tobytes() for image in same.values()]


def test_limit_and_languages(encoder):
    source = Numbered()
    found = encode_source(source, [encoder], SkipLog(), limit=3, languages=["de"])
    assert source.read == [0, 1, 2]
    assert found.languages == ["de"]
    assert found.texts == ["Text 0", "gleich", "Text 2", "gleich"]
    assert len(encode_source(Streamed(), [encoder], SkipLog(), limit=3).places) == 3
    source.read.clear()
    with pytest.raises(ValueError, match="'numbered' has no record that can be used"):
        encode_source(type("Bad", (Numbered,), {"__getitem__": lambda self, i: Numbered()[1]})(), [encoder], SkipLog())


def test_captions_in_every_form():
    record = {"captions": {"en": "a dog", "de": ["Hund", "ein Hund", ""], "fr": []}}
    assert captions_of(record, None) == {"en": ["a dog"], "de": ["Hund", "ein Hund"]}
    assert captions_of(record, ["de", "fr", "it"]) == {"de": ["Hund", "ein Hund"]}
    assert captions_of({"suffix": "a dog"}, None) == {"en": ["a dog"]}
    assert captions_of({"suffix": "Hund"}, ["de"]) == {"de": ["Hund"]}
    assert captions_of({}, None) == {}


def test_the_class_of_a_image():
    dog = {"concept": "dog", "names": {"en": "dog", "de": "Hund"}}
    cat = {"concept": "cat", "names": {"en": "cat"}}
    assert class_of({"objects": [dog, dog]}) == ("dog", {"en": ["dog"], "de": ["Hund"]})
    assert class_of({"objects": [dog, cat]}) == (None, {})
    assert class_of({"objects": [dog, cat], "concept": "cat"}) == ("cat", {"en": ["cat"]})
    assert class_of({"concept": "dog", "captions": {"en": ["dog", "hound"]}}) == ("dog", {"en": ["dog", "hound"]})
    assert class_of({"objects": [{"names": {"en": "dog"}}], "captions": {"en": "x"}}) == (None, {})


def test_every_kind_of_siglip_is_loaded(tmp_path):
    model, processor = tiny_siglip()
    classifier = SiglipForImageClassification(model.config)
    encoder = SiglipVisionModel(model.config.vision_config)
    plain = tiny_siglip(vision_use_head=False)[0].vision_model
    kinds = {"both": model, "classifier": classifier, "encoder": encoder, "plain": plain}
    for name, kind in kinds.items():
        kind.save_pretrained(tmp_path / name)
        processor.image_processor.save_pretrained(tmp_path / name)
    processor.save_pretrained(tmp_path / "both")
    found = {name: load_encoder(str(tmp_path / name), "cpu") for name in kinds}
    poolings = {name: (one.pooling, one.tokenizer is not None, one.poolings) for name, one in found.items()}
    assert poolings == {
        "both": ("head", True, ["head"]),
        "classifier": ("mean", False, ["mean"]),
        "encoder": ("head", False, ["head"]),
        "plain": ("mean", False, ["mean"]),
    }
    assert load_encoder(str(tmp_path / "both"), "cpu", "mean").poolings == ["head", "mean"]
    images = [Image.new("RGB", (20, 20), "red")]
    for name, kind in kinds.items():
        one = found[name]
        expected = image_features(kind, processor.image_processor, images, one.pooling)
        torch.testing.assert_close(image_features(one.model, one.image_processor, images, one.pooling), expected)
    with pytest.raises(ValueError, match="plain has no pooling head"):
        load_encoder(str(tmp_path / "plain"), "cpu", "head")
    with pytest.raises(ValueError, match="pooling is one of auto, head, mean, not 'max'"):
        load_encoder(str(tmp_path / "both"), "cpu", "max")


def test_another_kind_of_model_is_refused(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is of the type pali3; this reads siglip, siglip2"):
        load_encoder(str(tmp_path), "cpu")


def test_names_of_tables():
    assert short_names(["outputs/a", "google/b"]) == ["a", "b"]
    assert short_names(["one/a", "two/a"]) == ["one/a", "two/a"]


def test_an_image_of_crossmodal_3600_is_encoded_once_for_all_languages(tmp_path):
    spec = one_record_an_image({"name": "xm3600", "path": str(xm3600(tmp_path)["path"])})
    model, processor = tiny_siglip()
    encoder = Encoder("tiny", model, processor.image_processor, processor.tokenizer, "head")
    data = encode_source(load_source(spec), [encoder], SkipLog())
    assert len(data.places) == 3
    assert data.languages == ["en", "quz", "sw"]
    # three captions in each of three languages
    assert [data.text_image.count(image) for image in range(3)] == [9, 9, 9]
    few = load_source(spec | {"languages": ["sw", "de"]})
    assert list(few[0]["captions"]) == ["sw"]
    # a table of captions keeps a record for each language
    assert len(load_source({"name": "xm3600", "path": str(tmp_path), "languages": ["en", "sw"]})) == 6
    assert one_record_an_image({"name": "jsonl", "path": "a"}) == {"name": "jsonl", "path": "a"}
