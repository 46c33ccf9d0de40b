import json
import pickle

import numpy as np
import pytest
from coco_files import HEIGHT, WIDTH, bar
from PIL import Image

from openpali.data.example import Box
from openpali.data.masks.rle import encode_rle
from openpali.data.mixture import TaskDataset
from openpali.data.records import BadRecord
from openpali.data.sources import load_source
from openpali.data.sources.refer import ReferringExpressions
from openpali.data.tasks import load_task

GOOD = {"image": "a.png", "sentences": ["left  cup", "the cup; on a table"], "bbox": [6, 10, 12, 20]}
POLYGON = [[6, 10, 18, 10, 18, 30, 6, 30]]


@pytest.fixture
def write(tmp_path):
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "a.png")

    def write_entries(entries, name="refs.json"):
        (tmp_path / name).write_text(json.dumps(entries))
        return tmp_path / name

    return write_entries


def test_records_are_what_the_file_says(write):
    rle = encode_rle(bar(6, 10, 18, 30))
    entries = [{**GOOD, "segmentation": POLYGON, "category": "cup"}, {**GOOD, "segmentation": rle, "id": "x"}]
    entries += [{"file_name": "a.png", "sentence": "a cup", "segmentation": POLYGON}, GOOD]
    source = load_source({"name": "refer", "path": str(write(entries))})
    records = [source[index] for index in range(4)]
    assert [record["id"] for record in records] == [
        f"refs.json:{id_}" for id_ in ("entry 0", "id x", "entry 2", "entry 3")
    ]
    for record in records:
        assert record["image"].size == (WIDTH, HEIGHT)
        (item,) = record["objects"]
        box = item["box"]
        assert (box.x0, box.y0, box.x1, box.y1) == (0.1, 0.25, 0.3, 0.75)
        if record is not records[3]:
            assert np.array_equal(np.asarray(item["mask"]), bar(6, 10, 18, 30))
    cup = records[0]["objects"][0]
    assert (cup["concept"], cup["box"].label) == ("cup", "cup")
    assert cup["sentences"] == {"en": ["left cup", "the cup, on a table"]}
    assert cup["names"] == {"en": "left cup"}
    assert records[2]["objects"][0]["concept"] == "a cup"
    assert records[3]["objects"][0]["mask"] is None


def test_published_scores_count_every_sentence(write):
    path = write([GOOD, {**GOOD, "sentences": [{"sent": "raw one", "tokens": []}]}])
    source = ReferringExpressions(path, each_sentence=True, language="de")
    assert [source[n]["objects"][0]["sentences"]["de"] for n in range(3)] == [
        ["left cup"], ["the cup, on a table"], ["raw one"]
    ]  # fmt: skip
    assert len({source[n]["id"] for n in range(3)}) == 3


def test_splits(write):
    names = ["train", "val", "testA", "testB", "train"]
    path = write([{**GOOD, "split": name, "id": number} for number, name in enumerate(names)])
    ids = {
        split: [record["id"][-1] for record in (source[n] for n in range(len(source)))]
        for split in ("train", "validation", "test", "testB")
        for source in [ReferringExpressions(path, split=split)]
    }
    assert ids == {"train": ["0", "4"], "validation": ["1"], "test": ["2", "3"], "testB": ["3"]}
    assert len(ReferringExpressions(path)) == 5
    with pytest.raises(BadRecord, match="no entry has the split 'dev'; there are testA, testB, train, val"):
        ReferringExpressions(path, split="dev")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "none.png"}, "there is no image none.png"),
        ({"image": "../refs.json"}, "../refs.json is outside"),
        ({"image": "refs.json"}, "is not an image that can be read"),
        ({"sentences": []}, "it has no sentence"),
        ({"sentences": ["a", 5]}, "its sentences are missing or not texts. Give"),
        ({"sentences": [{"tokens": ["a"]}]}, "its sentences are missing or not texts"),
        ({"sentences": " "}, "its sentences are missing or not texts"),
        ({"sentences": ["<loc0001> cup"]}, "holds a location or segmentation token"),
        ({"bbox": [6, 10, 0, 20]}, "its bbox [6, 10, 0, 20] is empty"),
        ({"bbox": [6, 10, 120, 20]}, "reaches outside the image of 60 x 40"),
        ({"bbox": None}, "it has neither bbox nor segmentation"),
        ({"bbox": None, "segmentation": [[0, 0, 0.1, 0, 0, 0.1]]}, "its segmentation covers no pixel"),
        ({"segmentation": [[1, 2]]}, "a polygon of 2 coordinates"),
        ({"segmentation": {"size": [60, 40], "counts": "0"}}, "has size [60, 40]"),
        ({"bbox": None, "ann_id": 5, "segmentation": []}, "it has neither bbox nor segmentation"),
        ("text", "it is not a JSON object"),
    ],
)
def test_an_entry_that_cannot_be_used_is_named(write, change, message):
    broken = change if isinstance(change, str) else {**GOOD, **change}
    path = write([broken, GOOD])
    source = ReferringExpressions(path)
    (bad,) = source.bad
    assert str(bad).startswith(f"{path}:entry 0: ")
    assert message in str(bad)
    assert [source[n]["id"] for n in range(len(source))] == ["refs.json:entry 1"]


def test_ids_are_used_once(write):
    source = ReferringExpressions(write([{**GOOD, "id": 4}, {**GOOD, "id": 4}, {**GOOD, "ref_id": 4}]))
    assert [str(bad).split(": ", 1)[1] for bad in source.bad] == [
        "another entry has the same id. Give each entry an id of its own, or none."
    ]
    assert len(source) == 2


def test_a_pickle_is_not_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    for name in ("refs(unc).p", "refs.json"):
        (tmp_path / name).write_bytes(pickle.dumps([Trap()]))
        with pytest.raises(BadRecord) as error:
            ReferringExpressions(tmp_path / name)
        assert "it is a pickle, which can run programs when it is opened, so it is not read" in str(error.value)
        assert "json.dump(pickle.load(open('refs(unc).p', 'rb'))" in str(error.value)
        assert not (tmp_path / "sprung").exists()


def test_refcocos_own_files_once_they_are_json(write, coco):
    """What the error on a pickle says to do: boxes, outlines, categories and images come from COCO's file."""
    refs = [
        {"ref_id": 1, "ann_id": 100, "image_id": 7, "file_name": "COCO_a_16.jpg", "split": "train"}
        | {"sentences": [{"sent": "big dog", "raw": "Big dog!", "sent_id": 3}], "category_id": 18},
        {"ref_id": 2, "ann_id": 999, "split": "train", "sentences": [{"sent": "no dog"}]},
    ]
    source = ReferringExpressions(write(refs), coco.root, "train", coco.write())
    (item,) = source[0]["objects"]
    assert (item["concept"], item["sentences"]) == ("dog", {"en": ["big dog"]})
    assert item["box"] == Box(10 / 60, 5 / 40, 30 / 60, 35 / 40, "dog")
    assert np.array_equal(np.asarray(item["mask"]), bar(10, 5, 30, 35))
    assert [bad.record for bad in source.bad] == ["ref_id 2"]
    with pytest.raises(BadRecord, match="its ann_id 100 is not among the instances. Give the option instances"):
        ReferringExpressions(write(refs), coco.root)
    with pytest.raises(BadRecord, match=r"other.json:all: it is not a file of COCO instances"):
        ReferringExpressions(write(refs), coco.root, "train", write({"images": 5}, "other.json"))


def test_files_that_are_no_list(write):
    with pytest.raises(BadRecord, match="it is not a JSON list"):
        ReferringExpressions(write({"refs": []}))
    with pytest.raises(BadRecord, match="it has no records"):
        ReferringExpressions(write([]))


def test_sentences_are_prompts_and_names(write, codec):
    source = ReferringExpressions(write([{**GOOD, "segmentation": POLYGON}]))
    refer = TaskDataset(source, load_task({"name": "refer", "codec": codec}))
    assert refer[0].prefix in ("left cup", "the cup, on a table")
    # every pass over the data draws anew, and the first is the plain index's
    assert refer[0, 0].prefix == refer[0].prefix
    assert len({refer[epoch, 0].prefix for epoch in range(20)}) == 2
    detect = TaskDataset(source, load_task({"name": "detect"}))
    assert (detect[0].prefix, detect[0].boxes[0].label) == ("detect left cup", "left cup")
    grounded = TaskDataset(source, load_task({"name": "grounded_caption", "metric": "cider", "metric_key": "cider"}))
    assert grounded[0].references == ("left cup", "the cup, on a table")


def test_instances_with_repeated_ids_are_not_taken_for_one_another(write, coco):
    refs = [{"ref_id": n, "ann_id": id_, "sentences": ["it"]} for n, id_ in enumerate((100, "101", 102, 103))]
    # another annotation is called 100 too, and another image 3
    coco.content["annotations"].append(coco.annotation(102) | {"id": 100})
    source = ReferringExpressions(write(refs), coco.root, instances=coco.write())
    assert [bad.record for bad in source.bad] == ["ref_id 0"]
    coco.content["images"].append(coco.image(7) | {"id": 3})
    source = ReferringExpressions(write(refs), coco.root, instances=coco.write())
    assert [bad.record for bad in source.bad] == ["ref_id 0", "ref_id 1", "ref_id 3"]


def test_a_segmentation_elsewhere_than_its_box_is_reported(write):
    far = [[50, 30, 58, 30, 58, 38]]
    source = ReferringExpressions(write([GOOD | {"segmentation": POLYGON}, GOOD | {"segmentation": far}]))
    assert "its segmentation is at 50, 30 to 58, 38 and its box at" in str(source.bad[0])
    shares = [[x / (40 if i % 2 else 60) for i, x in enumerate(POLYGON[0])]]
    with pytest.raises(BadRecord, match="would as shares of the image's sides"):
        ReferringExpressions(write([GOOD | {"segmentation": shares}]))


def test_boxes_far_outside_are_clipped_where_that_is_asked_for(write):
    path = write([GOOD, GOOD | {"bbox": [30, 20, 50, 50]}])
    assert len(ReferringExpressions(path)) == 1
    (item,) = ReferringExpressions(path, clip_boxes=True)[1]["objects"]
    assert (item["box"].x0, item["box"].y0, item["box"].x1, item["box"].y1) == (0.5, 0.5, 1, 1)


def test_photographs_annotated_as_they_are_stored(write, tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6
    Image.new("RGB", (60, 40)).save(tmp_path / "turned.png", exif=exif)
    path = write([GOOD, GOOD | {"image": "turned.png", "bbox": [30, 10, 30, 20]}])
    source = ReferringExpressions(path)
    assert [bad.record for bad in source.bad] == ["entry 1"]
    assert "EXIF turns 1 of the images" in source.notes[0]
    record = ReferringExpressions(path, orientation="stored")[1]
    assert record["image"].size == (40, 60)
    box = record["objects"][0]["box"]
    # a quarter turn to the right: what was on the right is below
    assert (box.x0, box.y0, box.x1, box.y1) == pytest.approx((0.25, 0.5, 0.75, 1))
