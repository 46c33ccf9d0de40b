"""COCO files as tools and systems write them: ids, units, orientations, names of files, links and encodings."""

import json
import unicodedata

import numpy as np
import pytest
from coco_files import HEIGHT, WIDTH, ids, reason
from PIL import Image

from openpali.data.example import Box
from openpali.data.masks.rle import mask_box
from openpali.data.records import BadRecord
from openpali.data.sources.coco import CocoInstances


def test_images_with_a_repeated_id_are_all_left_out_with_their_annotations(coco):
    coco.content["images"].append({"id": "7", "file_name": "b.png", "width": WIDTH, "height": HEIGHT})
    source = CocoInstances(coco.write(), coco.root)
    assert ids(source) == ["3", "8"]
    assert [(bad.record, bad.reason) for bad in source.bad] == [("image 7", "another image has the same id")] * 2


@pytest.mark.parametrize(("mine", "theirs"), [(int, str), (str, int), (str, str), (int, float)])
def test_ids_match_as_numbers_and_as_texts(coco, mine, theirs):
    for image in coco.content["images"]:
        image["id"] = mine(image["id"])
    for annotation in coco.content["annotations"]:
        annotation["image_id"] = theirs(annotation["image_id"])
        annotation["category_id"] = theirs(annotation["category_id"])
    source = CocoInstances(coco.write(), coco.root)
    assert (ids(source), source.bad) == (["7", "3", "8"], [])
    assert [item["concept"] for item in source[0]["objects"]] == ["dog", "cat"]


def test_ids_may_be_any_texts(coco):
    for image in coco.content["images"]:
        image["id"] = f"img_{image['id']}"
    for annotation in coco.content["annotations"]:
        annotation["image_id"] = f"img_{annotation['image_id']}"
    assert ids(CocoInstances(coco.write(), coco.root)) == ["img_7", "img_3", "img_8"]


def test_annotations_that_lost_their_images_end_the_run(coco):
    for annotation in coco.content["annotations"][:2]:
        annotation["image_id"] += 1000
    with pytest.raises(BadRecord, match="annotations: 2 of 7 annotations belong to no image.*Fix their image_id"):
        CocoInstances(coco.write(), coco.root)


def test_an_annotation_without_an_id_spoils_its_image(coco):
    del coco.annotation(102)["id"]
    source = CocoInstances(coco.write(), coco.root)
    assert ids(source) == ["3", "8"]
    assert reason(source, "annotation number 2").startswith(f"{coco.path}:annotation number 2: entry 2")


def test_categories_with_one_id_and_two_names_are_reported(coco):
    coco.content["categories"].append({"id": 1, "name": "lion"})
    source = CocoInstances(coco.write(), coco.root)
    assert "its id is also that of 'cat'" in reason(source, "category 1")


def change_polygons(coco, change):
    for annotation in coco.content["annotations"]:
        if isinstance(annotation.get("segmentation"), list):
            annotation["segmentation"] = [
                [v for x, y in zip(*[iter(polygon)] * 2) for v in change(x, y)]
                for polygon in annotation["segmentation"]
            ]


@pytest.mark.parametrize(
    ("change", "units"),
    [
        (lambda x, y: (x / WIDTH, y / HEIGHT), "would as shares of the image's sides"),
        (lambda x, y: (y, x), "would as x and y exchanged"),
        (lambda x, y: (100 * x / WIDTH, 100 * y / HEIGHT), "would as percent of the image's sides"),
    ],
)
def test_segmentations_in_other_units_than_boxes_are_reported(coco, change, units):
    coco.annotation(101).pop("segmentation")
    change_polygons(coco, change)
    with pytest.raises(BadRecord, match=f"the segmentations do not fit their boxes, and {units}.*in pixels"):
        CocoInstances(coco.write(), coco.root)


@pytest.mark.parametrize(
    "segmentation", [[[40, 20, 50, 20, 50, 30]], {"size": [HEIGHT, WIDTH], "counts": [2000, 3, 397]}]
)
def test_a_segmentation_elsewhere_than_its_box_is_reported(coco, segmentation):
    coco.annotation(101)["segmentation"] = segmentation
    source = CocoInstances(coco.write(), coco.root)
    assert "and its box at 0, 0 to 12, 10 pixels. Fix one of them" in reason(source, "annotation 101")
    assert ids(source) == ["7", "8"]


def test_boxes_far_outside_are_clipped_where_that_is_asked_for(coco):
    coco.annotation(103)["bbox"] = [40, 20, 30, 40]
    assert len(CocoInstances(coco.write(), coco.root)) == 2
    source = CocoInstances(coco.path, coco.root, clip_boxes=True)
    assert source[1]["objects"][1]["box"] == Box(40 / 60, 0.5, 1, 1, "dog")
    assert "1 boxes reach outside their images and are clipped" in source.notes


@pytest.mark.parametrize("orientation", range(2, 9))
def test_annotations_of_images_as_they_are_stored_are_turned_with_them(coco, orientation):
    for image in coco.content["images"]:
        exif = Image.Exif()
        exif[0x112] = orientation
        shown = Image.new("RGB", (WIDTH, HEIGHT))
        # the dog is white
        shown.paste((255, 255, 255), (10, 5, 30, 35))
        shown.save(coco.root / image["file_name"], exif=exif)
    source = CocoInstances(coco.write(), coco.root, orientation="stored")
    record = source[0]
    dog = record["objects"][0]
    white = np.asarray(record["image"])[:, :, 0] > 0
    assert np.array_equal(np.asarray(dog["mask"]), white)
    height, width = white.shape
    corners = [dog["box"].x0 * width, dog["box"].y0 * height, dog["box"].x1 * width, dog["box"].y1 * height]
    edges = mask_box(white)
    assert corners == pytest.approx([edges.x0 * width, edges.y0 * height, edges.x1 * width, edges.y1 * height])
    assert "EXIF turns 3 of 3 sampled images" in source.notes[-1]
    upright = CocoInstances(coco.path, coco.root)
    if orientation >= 5:
        with pytest.raises(BadRecord, match="EXIF turns it, .*give the option orientation: stored"):
            upright[0]
    assert "EXIF turns 3 of 3 sampled images" in upright.notes[-1]


def test_an_unknown_orientation_is_reported(coco):
    with pytest.raises(ValueError, match="orientation is one of upright, stored, not 'turned'"):
        CocoInstances(coco.write(), coco.root, orientation="turned")


def test_names_as_macos_windows_and_whole_paths_have_them(coco):
    (coco.root / "b.png").rename(coco.root / unicodedata.normalize("NFD", "bär.png"))
    coco.image(3)["file_name"] = unicodedata.normalize("NFC", "bär.png")
    coco.image(7)["file_name"] = "deep\\a.png"
    coco.image(8)["file_name"] = str(coco.root / "crowd.png")
    source = CocoInstances(coco.write(), coco.root)
    assert (ids(source), source.bad) == (["7", "3", "8"], [])
    assert [source[index]["image"].size for index in range(3)] == [(WIDTH, HEIGHT)] * 3


def test_links_stay_within_the_image_root(coco, tmp_path):
    """As DVC, git-annex and the cache of the Hub have it: the file names links to a store beside them."""
    store = tmp_path / "store"
    store.mkdir()
    (coco.root / "b.png").rename(store / "0123")
    (coco.root / "b.png").symlink_to(store / "0123")
    with pytest.raises(BadRecord, match="b.png is a link out of .*give an image_root that holds both"):
        CocoInstances(coco.write(), coco.root)[1]
    for image in coco.content["images"]:
        image["file_name"] = f"pictures/{image['file_name']}"
    assert CocoInstances(coco.write(), tmp_path.parent)[1]["image"].size == (WIDTH, HEIGHT)


def test_windows_files_are_read(coco):
    path = coco.write()
    for encoding in ("utf-16", "utf-16-le", "utf-8-sig"):
        path.write_text(json.dumps(coco.content), encoding)
        assert len(CocoInstances(path, coco.root)) == 3
