import json
import pickle

import numpy as np
import pytest
from coco_files import HEIGHT, WIDTH, bar, reason
from PIL import Image
from pycocotools import mask as official

from openpali.data.example import Box
from openpali.data.masks.rle import LazyMask
from openpali.data.mixture import TaskDataset
from openpali.data.records import BadRecord
from openpali.data.sources import CheckedSource, load_source
from openpali.data.sources.coco import CocoInstances
from openpali.data.tasks import load_task
from openpali.recipes.stages.instance_masks import instances


def test_records_are_what_the_file_says(coco):
    source = load_source({"name": "coco", "path": str(coco.write()), "image_root": str(coco.root)})
    assert isinstance(source, CheckedSource)
    assert (len(source), source.bad, source.skipped_crowds, source.without_objects) == (3, [], 1, 1)
    assert [note.split()[0] for note in source.notes] == ["1", "1"]
    records = {record["id"]: record for record in (source[index] for index in range(3))}
    assert list(records) == ["instances.json:7", "instances.json:3", "instances.json:8"]
    assert records["instances.json:7"]["image"].size == (WIDTH, HEIGHT)
    dog, cat = records["instances.json:7"]["objects"]
    assert (dog["annotation"], dog["concept"], dog["names"]) == (100, "dog", {"en": "dog"})
    assert dog["box"] == Box(10 / 60, 5 / 40, 30 / 60, 35 / 40, "dog")
    assert np.array_equal(np.asarray(dog["mask"]), bar(10, 5, 30, 35))
    assert cat["box"] == Box(35.5 / 60, 10.25 / 40, 55.5 / 60, 22.75 / 40, "cat")
    polygons = coco.annotation(102)["segmentation"]
    theirs = official.decode(official.merge(official.frPyObjects(polygons, HEIGHT, WIDTH)))
    assert np.array_equal(np.asarray(cat["mask"]), theirs)
    cat, dog = records["instances.json:3"]["objects"]
    assert np.array_equal(np.asarray(cat["mask"]), bar(0, 0, 12, 10))
    assert dog["mask"] is None
    with pytest.raises(IndexError):
        source[3]


def test_masks_are_computed_on_access(coco, monkeypatch):
    monkeypatch.setattr("openpali.data.files.annotations.polygons_mask", lambda: None)
    (thing, _) = CocoInstances(coco.write(), coco.root)[0]["objects"]
    assert isinstance(thing["mask"], LazyMask)
    data = TaskDataset(CocoInstances(coco.write(), coco.root), load_task({"name": "detect", "most_things": 2}))
    assert data[0].prefix.startswith("detect ")
    with pytest.raises(TypeError):
        np.asarray(thing["mask"])


def test_the_mask_vqvae_trains_on_them(coco):
    found = list(instances(CocoInstances(coco.write(), coco.root)[0]))
    assert [(instance.box.label, int(instance.mask.sum())) for instance in found] == [
        ("dog", 600),
        ("cat", int(np.asarray(CocoInstances(coco.path, coco.root)[0]["objects"][1]["mask"]).sum())),
    ]


def test_crowds_are_counted_and_not_asked_for(coco):
    source = CocoInstances(coco.write(), coco.root)
    assert source[2]["crowds"] == ["cat"]
    assert [item["annotation"] for item in source[2]["objects"]] == [104, 106]
    data = TaskDataset(source, load_task({"name": "detect", "most_things": 5}))
    assert data[2].prefix == "detect dog"
    with_crowds = CocoInstances(coco.write(), coco.root, crowd=True)
    assert with_crowds.skipped_crowds == 0
    assert not any("crowd" in note for note in with_crowds.notes)
    record = with_crowds[2]
    assert record["crowds"] == []
    assert np.array_equal(np.asarray(record["objects"][1]["mask"]), bar(0, 0, 1, 40))


def test_the_folder_of_the_file_is_the_default(coco, tmp_path):
    for image in coco.content["images"]:
        image["file_name"] = f"pictures/{image['file_name']}"
    source = CocoInstances(coco.write())
    assert source.image_root == tmp_path
    assert source[0]["image"].size == (WIDTH, HEIGHT)


BREAKS = [
    (100, {"bbox": [10, 5, 0, 30]}, "its bbox [10, 5, 0, 30] is empty. Remove it, or give"),
    (100, {"bbox": [10, 5, 20, -3]}, "is empty"),
    (100, {"bbox": [10, 5, 80, 30]}, "reaches outside the image of 60 x 40 pixels. Give [left, top, width, height]"),
    (100, {"bbox": [-30, 5, 20, 30]}, "reaches outside"),
    (100, {"bbox": [60.5, 5, 1, 30]}, "lies outside the image"),
    (100, {"bbox": [10, 5, 20]}, "its bbox [10, 5, 20] is not four numbers. Give [left, top, width, height]"),
    (100, {"bbox": [10, 5, 20, float("nan")]}, "is not four numbers"),
    (100, {"bbox": [10, 5, 20, 10**400]}, "is not four numbers"),
    (100, {"bbox": "everything"}, "is not four numbers"),
    (100, {"bbox": None}, "its bbox null is not four numbers"),
    (100, {"category_id": 2}, "its category_id 2 is not among the categories. Fix it, or remove it"),
    (100, {"category_id": [1]}, "its category_id [1] is not among the categories"),
    (100, {"segmentation": [[1, 2, 3, 4]]}, "a polygon of 4 coordinates; x and y of at least three points"),
    (100, {"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "a polygon of 7 coordinates"),
    (100, {"segmentation": [[1, 2, 3, 4, 5, "x"]]}, "a polygon is not a list of numbers. Fix or remove the polygon"),
    (100, {"segmentation": [[1, 2, 3, 4, 5, 1e300]]}, "a coordinate that is not a number of pixels"),
    (100, {"segmentation": "all"}, "its segmentation is neither polygons nor RLE. Give [[x1, y1"),
    (
        101,
        {"segmentation": {"size": [60, 40], "counts": "0"}},
        "has size [60, 40], and the image is 40",
    ),
    (
        101,
        {"segmentation": {"size": [40, 60], "counts": "0"}},
        "do not add up to 40 x 60 pixels. Encode",
    ),
    (101, {"segmentation": {"size": [40, 60], "counts": "~~"}}, "its RLE is wrong"),
    (101, {"segmentation": {"size": [40, 60], "counts": 5}}, "neither a string nor a list"),
    (101, {"segmentation": {"size": [40, 60]}}, "its RLE is wrong"),
]


@pytest.mark.parametrize(("id_", "change", "message"), BREAKS)
def test_an_annotation_that_cannot_be_used_is_named(coco, id_, change, message):
    spoiled = coco.annotation(id_)["image_id"]
    coco.annotation(id_).update(change)
    source = CocoInstances(coco.write(), coco.root)
    assert len(source.bad) == 1
    assert reason(source, f"annotation {id_}").startswith(f"{coco.path}:annotation {id_}: ")
    assert message in reason(source, f"annotation {id_}")
    # the other annotations of the image would be incomplete ground truth
    assert f"instances.json:{spoiled}" not in [source[index]["id"] for index in range(len(source))]
    assert len(source) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"file_name": "none.png"}, "there is no image none.png in"),
        ({"file_name": "deep/b.png"}, "there is no image deep/b.png"),
        ({"file_name": "../instances.json"}, "../instances.json is outside"),
        ({"file_name": "deep/../../instances.json"}, "is outside"),
        ({"file_name": "/etc/passwd"}, "/etc/passwd is outside"),
        ({"file_name": "https://example.org/a.png"}, "is an address on the web. Download the image"),
        ({"file_name": ""}, "its file_name is missing"),
        ({"file_name": "a\0.png"}, "its file_name is missing"),
        ({"file_name": 5}, "its file_name is missing"),
        ({"width": 0}, "its width 0 and height 40 are not valid. Give both in pixels"),
        ({"height": "40"}, 'height "40" are not valid'),
        ({"height": 10**12}, "are not valid"),
    ],
)
def test_an_image_that_cannot_be_used_is_named(coco, change, message):
    coco.image(7).update(change)
    source = CocoInstances(coco.write(), coco.root)
    assert [bad.record for bad in source.bad] == ["image 7"]
    assert message in reason(source, "image 7")
    assert [source[index]["id"] for index in range(2)] == ["instances.json:3", "instances.json:8"]


def test_other_broken_entries(coco):
    coco.content["images"].append({"id": 7, "file_name": "b.png", "width": WIDTH, "height": HEIGHT})
    coco.content["images"] += [{"file_name": "b.png"}, "b.png"]
    coco.content["annotations"] += [
        {"image_id": 5, "category_id": 1},
        None,
        {"id": 200, "image_id": 77, "category_id": 1},
    ]
    coco.content["annotations"] += [{"id": 201, "image_id": 7, "category_id": 1}, {"id": 10**30}]
    coco.content["annotations"][-1] |= {"image_id": 5, "category_id": 1}
    coco.content["categories"] += [{"id": 5, "name": "cat; dog"}, {"id": 6}, {"name": "x"}, None]
    source = CocoInstances(coco.write(), coco.root)
    assert len(source) == 2
    reasons = {bad.record: bad.reason for bad in source.bad}
    assert reasons["image 7"] == "another image has the same id"
    assert reasons["image number 5"] == "entry 5 of images has no id"
    assert reasons["image number 6"] == "entry 6 of images has no id"
    assert reasons["annotation number 7"] == "entry 7 of annotations has no integer id"
    assert "annotation number 8" in reasons
    assert reasons["annotation number 11"] == "entry 11 of annotations has no integer id"
    assert reasons["annotation 200"] == "its image_id 77 is not among the images"
    # image 7 is there twice, so nothing more is said of what belongs to it
    assert "annotation 201" not in reasons
    assert "holds a semicolon" in reasons["category 5"]
    assert {"category 6", "category None"} < set(reasons)


def test_edges_that_published_files_round_are_clipped(coco):
    coco.annotation(101)["bbox"] = [-0.4, -1.2, 12.4, 11.2]
    coco.annotation(103)["bbox"] = [40, 20, 20.9, 21]
    cat, dog = CocoInstances(coco.write(), coco.root)[1]["objects"]
    assert cat["box"] == Box(0, 0, 0.2, 0.25, "cat")
    assert dog["box"] == Box(40 / 60, 0.5, 1, 1, "dog")


def test_images_that_change_under_the_run(coco, tmp_path):
    source = CocoInstances(coco.write(), coco.root)
    Image.new("RGB", (HEIGHT, WIDTH)).save(coco.root / "b.png")
    with pytest.raises(BadRecord, match="image 3: b.png is 40x60 pixels, and its annotations are for 60x40"):
        source[1]
    (coco.root / "b.png").write_bytes(b"torn")
    with pytest.raises(BadRecord, match="image 3: .*b.png is not an image that can be read"):
        source[1]
    (coco.root / "b.png").unlink()
    (coco.root / "b.png").symlink_to(tmp_path / "instances.json")
    with pytest.raises(BadRecord, match="image 3: b.png is a link out of"):
        source[1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "it is not JSON"),
        (b"[]", 'it has no list "images"'),
        (b'{"images": [], "annotations": {}}', 'it has no list "annotations"'),
        (b'{"images": [], "annotations": [], "categories": []}', "it has no records"),
        (pickle.dumps({"images": []}), "it is a pickle, which can run programs"),
        (b"\xff\xfe\x00", "it begins as UTF-16 and continues otherwise. Save the file as UTF-8"),
        ('{"images": ["Bär"]}'.encode("latin-1"), "it is not UTF-8 .byte 0xe4; perhaps Latin-1"),
    ],
)
def test_files_that_are_none(coco, content, message):
    coco.path.write_bytes(content)
    with pytest.raises(BadRecord, match=message):
        CocoInstances(coco.path, coco.root)
    with pytest.raises(BadRecord, match="no such file"):
        CocoInstances(coco.root / "none.json")


def test_too_many_bad_images_end_the_run(coco):
    for image in coco.content["images"]:
        image["file_name"] = "none.png"
    with pytest.raises(BadRecord, match="none of its 4 records is good. The first: .*image 7: there is no image"):
        CocoInstances(coco.write(), coco.root)
    coco.content["images"] = [
        {"id": n, "file_name": "b.png" if n % 5 else "none.png", "width": WIDTH, "height": HEIGHT} for n in range(100)
    ]
    coco.content["annotations"] = [
        {"id": n, "image_id": n, "category_id": 1, "bbox": [1, 1, 9, 9]} for n in range(100)
    ]
    with pytest.raises(BadRecord, match="20 of its 100 records are bad, more than a tenth"):
        CocoInstances(coco.write(), coco.root)
    coco.content["images"][0]["file_name"] = "b.png"
    for number in range(0, 100, 5):
        coco.content["images"][number]["file_name"] = "b.png" if number else "none.png"
    assert len(CocoInstances(coco.write(), coco.root)) == 99


def test_what_is_kept_is_small(coco):
    """No Python object per annotation: a process that reads data must not copy half a gigabyte of them."""
    point = [[float(n % 30), 5.0, 30.0, 5.0, 30.0, 35.0] for n in range(2000)]
    coco.content["annotations"] = [
        {"id": n, "image_id": 7, "category_id": 1, "bbox": [n % 30, 5, 30 - n % 30, 30], "segmentation": [point[n]]}
        for n in range(2000)
    ]
    source = CocoInstances(coco.write(), coco.root)
    assert len(pickle.dumps(source)) < 2000 * 160
    assert len(json.dumps(coco.content)) > 2000 * 110
    assert len(source[0]["objects"]) == 2000
