"""Annotations of custom data: ids, classes, boxes and segmentations, in forms that tools export or people mix up."""

import json

import pytest
from custom_files import NAMES, SIDE, coco, edit, found, some_box, table
from custom_records import all_records, rows
from PIL import Image

from openpali.data.custom.dataset import read_custom
from openpali.recipes import transfer


def test_joined_files_with_repeated_ids_are_an_error_and_are_left_out(check, tmp_path):
    path = coco(tmp_path / "data", 12)
    other = json.loads(coco(tmp_path / "other", 4, images="../data/images/more").read_text())
    for image in other["images"]:
        image["file_name"] = f"more/{image['file_name']}"
    edit(path, lambda c: (c["images"].extend(other["images"]), c["annotations"].extend(other["annotations"])))
    error, shown, report = check(path, "detect")
    assert "8 images have no id of their own; they and their annotations are left out" in error
    assert f"{path}:image 0: another image has the same id. Give each image an id of its own" in error
    assert found(report, "id") == [("error", 8)]
    assert not check(path, "detect", "--train_despite_errors", "true")[0]
    assert sorted(record["id"].split()[-1] for record in all_records(path, "detect")) == sorted(map(str, range(4, 12)))


@pytest.mark.parametrize("kind", ["detect", "segment", "caption"])
def test_ids_match_as_numbers_and_as_texts(check, tmp_path, kind):
    def as_text(one):
        one.update(image_id=f"{one['image_id']}", caption=f"square {one['id']}")

    path = coco(tmp_path / "data")
    edit(path, lambda c: [as_text(one) for one in c["annotations"]])
    error, shown, _ = check(path, kind)
    assert not error
    assert "no problems found" in shown
    records = all_records(path, kind)
    assert len(records) == 20
    assert all(record["captions"]["en"] if kind == "caption" else record["objects"] for record in records)


def test_lost_annotations_are_an_error_and_make_no_image_an_empty_one(check, tmp_path):
    path = coco(tmp_path / "data")
    edit(path, lambda c: [one.update(image_id=900 + one["id"]) for one in c["annotations"][:5]])
    edit(path, lambda c: c["annotations"].pop())
    error, shown, report = check(path, "detect")
    assert "5 of 19 annotations are of no image of the file, the first is annotation 100 of image 1000" in error
    # that without an annotation may be the one of a lost annotation as well
    assert found(report, "lost") == [("error", 6)]
    assert all(record["objects"] for record in all_records(path, "detect"))


def test_data_without_any_object_are_reported(check, tmp_path):
    path = edit(coco(tmp_path / "data"), lambda c: c.update(annotations=[]))
    assert "none of its 20 images has an object" in check(path, "detect")[0]
    error, *_ = check(path, "detect", "--train_despite_errors", "true")
    assert "no image has an object. Give it annotations." in error
    table(tmp_path / "lines", rows(objects=lambda n: []))
    assert "none of its 20 images has an object" in check(tmp_path / "lines", "segment")[0]


@pytest.mark.parametrize("label", [int, str, float, lambda n: f"{n}.0", lambda n: NAMES[n]])
@pytest.mark.parametrize("file", ["metadata.jsonl", "metadata.csv"])
def test_numbers_of_classes_become_their_names(tmp_path, label, file):
    table(tmp_path, rows(label=lambda n: label(n % 3)), file)
    records = all_records(tmp_path, "classify", classes=NAMES)
    assert {record["answers"][0] for record in records} == set(NAMES)
    numbers = [int(Image.Image.getpixel(record["image"], (0, 0))[0]) for record in records]
    assert [record["answers"] for record in records] == [[NAMES[number % 3]] for number in numbers]


def test_labels_beyond_the_classes_are_an_error(check, tmp_path):
    table(tmp_path / "data", rows(label=lambda n: n % 4))
    error, *_ = check(tmp_path / "data", "classify", "--classes", *NAMES)
    assert "5 labels are none of the classes" in error
    assert "metadata.jsonl:4: its class 3 is not among the classes, which are 0 to 2" in error
    table(tmp_path / "named", rows(label=lambda n: ["red", "green"][n % 2]))
    error, *_ = check(tmp_path / "named", "classify", "--classes", *NAMES)
    assert "its class 'green' is not among the classes, which are red, lime, blue" in error


def test_numbers_without_names_are_classes_of_their_own_and_reported(check, tmp_path):
    table(tmp_path / "data", rows(label=lambda n: f"{n % 3}.0"))
    error, shown, report = check(tmp_path / "data", "classify")
    assert not error
    assert set(report["splits"]["train"]["classes"]) == {"0", "1", "2"}
    assert "the classes are called 0, 1, 2. If they have names, give them" in shown


def test_a_list_of_classes_beside_named_categories_must_agree_with_them(check, tmp_path):
    path = edit(coco(tmp_path / "data"), lambda c: [one.update(id=one["id"] + 1) for one in c["categories"]])
    edit(path, lambda c: [one.update(category_id=one["category_id"] + 1) for one in c["annotations"]])
    # their order is no numbering: the file has its own, from 1
    assert not check(path, "detect", "--classes", "blue", "red", "lime")[0]
    for record in all_records(path, "detect", classes=["blue", "red", "lime"]):
        assert record["objects"][0]["concept"] == NAMES[int(record["id"].split()[-1]) % 3]
    error, *_ = check(path, "detect", "--classes", "red", "green", "blue")
    assert "the data name their classes (red, lime, blue), and not 'green'. Leave --classes out" in error


def test_a_super_category_of_the_same_name_is_asked_for_once(check, checkpoint, tmp_path):
    def exported(content):
        for one in content["categories"] + content["annotations"]:
            key = "id" if "name" in one else "category_id"
            one[key] += 1
        content["categories"].insert(0, {"id": 0, "name": "red", "supercategory": "none"})

    path = edit(coco(tmp_path / "data"), exported)
    error, shown, _ = check(path, "detect")
    assert "no problems found" in shown
    line = ["--model", str(checkpoint), "--data", str(path), "--kind", "detect", "--output_dir", str(tmp_path / "x")]
    read_custom.cache_clear()
    task = transfer.configure(transfer.with_default_config([*line, "--use_cpu", "true"]))[0].task
    assert task["classes"] == NAMES
    edit(path, lambda c: c["annotations"][0].update(category_id=0))
    assert "classes 0 and 1 are both called 'red', and are trained as one" in check(path, "detect")[1]


def test_names_that_are_one_to_a_metric_or_to_a_reader_are_reported(check, tmp_path):
    names = ["Red", "red", "traffic light", "traffic_light", "dark  blue", "dark blue"]
    table(tmp_path / "data", rows(60, label=lambda n: names[n % 6]))
    _, shown, report = check(tmp_path / "data", "classify")
    assert "'Red' and 'red'; 'dark  blue' and 'dark blue' count as one class in the scores" in shown.replace(
        "'red' and 'Red'", "'Red' and 'red'"
    )
    assert "'traffic light' and 'traffic_light' differ by case, space, - or _ alone" in shown
    assert found(report, "class_names") == [("warning", 2), ("warning", 1)]


def change_segmentations(content, change):
    for one in content["annotations"]:
        points = one["segmentation"][0]
        pairs = zip(points[::2], points[1::2])
        one["segmentation"] = [[value for point in pairs for value in change(*point)]]


@pytest.mark.parametrize(
    ("change", "units"),
    [(lambda x, y: (x / SIDE, y / SIDE), "shares of the image's sides"), (lambda x, y: (y, x), "x and y exchanged")],
)
def test_segmentations_in_other_units_than_their_boxes_are_reported(check, tmp_path, change, units):
    path = edit(coco(tmp_path / "data"), lambda c: change_segmentations(c, change))
    error, _, report = check(path, "segment")
    assert (
        f"annotation 100: the segmentations do not fit their boxes, and would as {units}. Write them as x1, y1"
        in error
    )
    assert not check(path, "detect")[0]


def test_a_segmentation_elsewhere_than_its_box_leaves_its_image_out(check, tmp_path):
    path = edit(coco(tmp_path / "data"), lambda c: c["annotations"][2].update(segmentation=[[0, 0, 6, 0, 6, 6]]))
    error, shown, report = check(path, "segment")
    assert not error
    assert "annotation 102: its segmentation is at 0, 0 to 6, 6 and its box at" in shown
    assert found(report, "segmentation") == [("warning", 1)]


def test_boxes_outside_are_clipped_where_that_is_asked_for_and_counted(check, tmp_path):
    path = edit(coco(tmp_path / "data"), lambda c: c["annotations"][3].update(bbox=[30, 30, 30, 30]))
    assert found(check(path, "detect")[2], "box") == [("warning", 1)]
    error, shown, report = check(path, "detect", "--clip_boxes", "true")
    assert not error
    assert f"1 boxes reach outside their images and are clipped, the first is {path}:annotation 103" in shown
    (record,) = [one for one in all_records(path, "detect", clip_boxes=True) if one["id"].endswith(" 3")]
    box = record["objects"][0]["box"]
    assert (box.x0, box.y0, box.x1, box.y1) == (0.75, 0.75, 1, 1)
    # another format is still reported
    edit(path, lambda c: [one.update(bbox=[*some_box(5)[:2], 39, 39]) for one in c["annotations"]])
    assert "all fit as xyxy" in check(path, "detect", "--clip_boxes", "true")[0]


def test_what_other_tools_export_is_read_or_reported(check, tmp_path):
    def error_of(name, change, kind="segment"):
        error, *_ = check(edit(coco(tmp_path / name), lambda c: [change(one) for one in c["annotations"]]), kind)
        return error

    assert "its segmentation covers no pixel" in error_of(
        "empty", lambda one: one.update(segmentation={"size": [SIDE, SIDE], "counts": [SIDE * SIDE]})
    )
    assert "Put the polygon into a list: [[x1, y1" in error_of(
        "flat", lambda one: one.update(segmentation=one["segmentation"][0])
    )
    assert "a polygon that is a list of points; write x1, y1" in error_of(
        "points", lambda one: one.update(segmentation=[[[1, 2], [3, 4], [5, 6]]])
    )
