"""Automatic labels in tar shards: written words with boxes, and labels chosen by the models that made them."""

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from openpali.data.example import Box
from openpali.data.files.tar_shards import read_samples
from openpali.data.records import BadRecord
from openpali.data.sources.label_models import with_labels_of
from openpali.data.sources.webdataset import WebDataset, record_of
from openpali.data.streaming.stream import TaskStream
from openpali.data.tasks import load_task
from openpali.scripts.web.running.files import write_shard

OCR, OWL, SAM = "RapidOCR 3.10.0", "google/owlv2-base", "facebook/sam-vit-base"
RLE = {"size": [6, 8], "counts": "0`1"}
TOKENS = list(range(16))


def word(text: str, x0: float, y0: float) -> dict:
    return {"text": text, "box": [x0, y0, x0 + 0.1, y0 + 0.1]}


def thing(name: str, **others) -> dict:
    return {"names": {"en": name}, "box": [0.1, 0.1, 0.5, 0.5]} | others


LABELLED = {
    "captions": {"en": "a cup", "de": "eine Tasse"},
    "words": [word("down", 0.1, 0.6), word("right", 0.5, 0.11), word("left", 0.1, 0.1)],
    "objects": [thing("cup"), thing("cat", model=OWL, score=0.7, mask=RLE, mask_tokens=TOKENS, mask_model=SAM)],
    "label_models": {"words": OCR, "objects": OWL, "captions.de": "nllb", "masks": SAM},
}


def shard(folder: Path, *contents: dict | None) -> str:
    file = io.BytesIO()
    Image.new("RGB", (8, 6)).save(file, "PNG")
    samples = [
        (str(n), {"png": file.getvalue()} | ({} if own is None else {"json": json.dumps(own).encode()}))
        for n, own in enumerate(contents)
    ]
    write_shard(folder / "a.tar", samples)
    return str(folder / "a.tar")


def stream(source: WebDataset, **task) -> TaskStream:
    return TaskStream(source, load_task(task), epochs=1)


def test_words_alone_train_ocr_in_either_order(tmp_path):
    path = shard(tmp_path, {"words": LABELLED["words"]})
    for order, text in (("raster", "left right down"), ("record", "down right left")):
        (example,) = stream(WebDataset(path), name="ocr", order=order)
        assert example.suffix == text
        assert all(isinstance(box, Box) for box in example.boxes)
    # words may have no places
    path = shard(tmp_path, {"words": [{"text": "one"}, {"text": "two"}]})
    (example,) = stream(WebDataset(path), name="ocr")
    assert (example.suffix, example.boxes) == ("one two", ())


def test_texts_are_required_unless_a_caller_allows_none(tmp_path):
    (sample,) = read_samples(shard(tmp_path, None), "a")
    with pytest.raises(BadRecord, match="it has no text"):
        record_of(sample)
    assert set(record_of(sample, texts_required=False)) == {"id", "image"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"words": ["hello"]}, '"words" are not a list of objects'),
        ({"words": [{"box": [0, 0, 1, 1]}]}, 'one of its "words" has no text'),
        ({"words": [{"text": "a", "box": [3, 4, 50, 60]}]}, r"the box \[3, 4, 50, 60\] is not"),
        ({"objects": [thing("cup", mask={"size": [6, 8], "counts": "0"})]}, "a mask is not COCO's RLE"),
        ({"objects": [thing("cup", mask="0`1")]}, "a mask is not COCO's RLE"),
        ({"objects": [thing("cup", mask_tokens=[1, 2])]}, "mask_tokens: a mask is 16 codes"),
        ({"objects": [thing("cup", mask_tokens=None)]}, "mask_tokens: "),
        ({"captions": {"en": "a"}, "label_models": OCR}, '"label_models" are not names by label'),
    ],
)
def test_labels_in_another_form_are_told(content, reason, tmp_path):
    (sample,) = read_samples(shard(tmp_path, content), "a")
    with pytest.raises(BadRecord, match=reason):
        record_of(sample)


def kept(patterns: list[str] | str | None, folder: Path) -> dict:
    (record,) = WebDataset(shard(folder, LABELLED), label_models=patterns).records()
    return record


def test_labels_of_all_models_by_default_and_of_none(tmp_path):
    everything, none = kept(None, tmp_path), kept([], tmp_path)
    assert everything["captions"] == LABELLED["captions"]
    assert [item["names"]["en"] for item in everything["objects"]] == ["cup", "cat"]
    assert everything["objects"][1]["mask_tokens"] == TOKENS
    # what people made stays
    assert none["captions"] == {"en": "a cup"}
    assert [item["names"]["en"] for item in none["objects"]] == ["cup"]
    assert none["left_out"] == ["words"]


def test_patterns_name_the_models_whose_labels_stay(tmp_path):
    words = kept("RapidOCR*", tmp_path)
    assert len(words["words"]) == 3
    assert len(words["objects"]) == 1
    boxes = kept(["*/owlv2-*", "nllb"], tmp_path)
    assert boxes["captions"] == LABELLED["captions"]
    assert boxes["objects"][1] == {**boxes["objects"][1], "model": OWL}
    assert not {"mask", "mask_tokens", "mask_model"} & set(boxes["objects"][1])
    assert "mask" in kept(["*/owlv2-*", "*/sam-*"], tmp_path)["objects"][1]


def test_objects_are_all_of_the_model_where_none_names_its_own():
    record = {"objects": [thing("cup")], "label_models": {"objects": OWL}}
    assert with_labels_of(record, ["other"]) == {"label_models": {"objects": OWL}, "left_out": ["objects"]}
    assert with_labels_of(record, ["google/*"]) == record


def test_a_model_that_found_nothing_leaves_an_empty_list():
    record = {"captions": {"en": "a"}, "objects": [], "label_models": {"objects": OWL}}
    assert with_labels_of(record, ["google/*"])["objects"] == []


def test_a_record_without_its_labels_is_passed_over_and_not_bad(tmp_path):
    """Eleven of twelve records have labels of another model; a missing label of people is still told."""
    theirs = {"captions": {"en": "a"}, "objects": [thing("cat")], "label_models": {"objects": "other"}}
    ours = {"objects": [thing("cup")], "label_models": {"objects": OWL}}
    source = WebDataset(shard(tmp_path, *[theirs] * 11, ours), label_models=["google/*"], length=12)
    (example,) = stream(source, name="detect")
    assert example.prefix == "detect cup"
    source = WebDataset(shard(tmp_path, {"captions": {"en": "a"}}, ours), label_models=["google/*"])
    rows = stream(source, name="detect")
    assert len(list(rows)) == 1
    assert "needs 'objects'" in rows.skip_log.read()[0]["reason"]


def test_two_entries_of_a_mixture_take_the_labels_of_two_models(tmp_path):
    contents = [{"captions": {"en": "a", "de": "b"}, "label_models": {"captions.de": model}} for model in "xyyy"]
    path = shard(tmp_path, *contents)
    for model, count in (("x", 1), ("y", 3)):
        examples = list(stream(WebDataset(path, label_models=[model]), name="caption", languages=["de"]))
        assert len(examples) == count
    records = WebDataset(path, label_models=[]).records()
    assert [own["captions"] for own in records] == [{"en": "a"}] * 4


def test_a_position_belongs_to_the_labels_that_were_chosen(tmp_path):
    path = shard(tmp_path, LABELLED)
    digests = [stream(WebDataset(path, label_models=own), name="ocr").digest() for own in (None, None, [], ["a"], "a")]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    assert digests[3] == digests[4]
