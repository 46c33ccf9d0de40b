"""YOLO's layout: boxes, polygons, negatives, splits, and the problem of every line that cannot be used."""

import json

import pytest
from custom_files import NAMES, SIDE, save_image, some_box
from custom_records import all_records, load_custom
from layout_files import roboflow_yolo, ultralytics, yolo_images, yolo_line
from PIL import Image

from openpali.data.custom.dataset import custom_spec, read_custom
from openpali.data.records import BadRecord


def objects_of(path, kind="detect", split="train", **options):
    """The number of each image and the boxes on it in pixels with their names."""
    source, found = load_custom(path, kind, split=split, **options), {}
    for record in (source[index] for index in range(len(source))):
        boxes = [(one["box"], one["concept"]) for one in record["objects"]]
        edges = [(*(round(side * SIDE, 3) for side in (b.x0, b.y0, b.x1, b.y1)), name) for b, name in boxes]
        found[record["image"].getpixel((0, 0))[0]] = edges
    return found


def expected(numbers):
    boxes = {number: some_box(number) for number in numbers}
    return {n: [(x, y, x + wide, y + high, NAMES[n % 3])] for n, (x, y, wide, high) in boxes.items()}


def bad(path, kind="detect", **options):
    """All problems of all rows."""
    read_custom.cache_clear()
    found = read_custom(custom_spec(str(path), kind, **options))
    return [str(problem.bad) for rows in found.rows.values() for row in rows for problem in row.problems]


@pytest.mark.parametrize("polygon", [False, True])
def test_both_arrangements_of_folders_with_their_data_yaml(tmp_path, polygon):
    one, other = ultralytics(tmp_path / "a", polygon), roboflow_yolo(tmp_path / "b", polygon)
    assert objects_of(one) == expected(range(12))
    assert objects_of(one, split="validation") == expected(range(12, 16))
    assert objects_of(other) == expected(range(8))
    assert objects_of(other, split="validation") == expected(range(8, 11))
    assert objects_of(other, split="test") == expected(range(11, 14))
    assert objects_of(one / "data.yaml") == expected(range(12))


def test_polygons_are_masks(tmp_path):
    for record in all_records(ultralytics(tmp_path, polygon=True), "segment"):
        x, y, wide, high = some_box(record["image"].getpixel((0, 0))[0])
        mask = record["objects"][0]["mask"].array
        assert mask.sum() == wide * high
        assert mask[y : y + high, x : x + wide].all()
    ultralytics(tmp_path / "boxes")
    assert "labels/train/0.txt:1: it has no segmentation" in bad(tmp_path / "boxes", "segment")[0].replace("\\", "/")


def test_images_without_labels_are_negatives(tmp_path):
    ultralytics(tmp_path)
    (tmp_path / "labels" / "train" / "0.txt").unlink()
    (tmp_path / "labels" / "train" / "1.txt").write_text("\n")
    assert objects_of(tmp_path) == expected(range(12)) | {0: [], 1: []}
    assert bad(tmp_path) == []


@pytest.mark.parametrize("orientation", ["upright", "stored"])
def test_shares_are_of_the_image_upright_or_as_stored(tmp_path, orientation):
    ultralytics(tmp_path)
    image, exif = Image.new("RGB", (40, 20), (50, 50, 50)), Image.Exif()
    exif[274] = 6
    image.save(tmp_path / "images" / "train" / "turned.jpg", exif=exif)
    (tmp_path / "labels" / "train" / "turned.txt").write_text("0 0.25 0.3 0.3 0.2\n")
    source = load_custom(tmp_path, "detect", orientation=orientation)
    records = [source[index] for index in range(len(source))]
    [box] = [record["objects"][0]["box"] for record in records if record["image"].size == (20, 40)]
    # turned clockwise: the left edge becomes the top
    edges = (0.1, 0.2, 0.4, 0.4) if orientation == "upright" else (0.6, 0.1, 0.8, 0.4)
    assert (box.x0, box.y0, box.x1, box.y1) == pytest.approx(edges)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("0 0.5 0.5 0.2", "it has 4 values; a box has 5, and a polygon 7, 9, 11 or more. A line is class cx cy w h"),
        ("0 0.5 0.5 0.2 0.2 0.9", "it has 6 values"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "it has 8 values"),
        ("0 12 15 8 8", "its value 12 is not in 0 to 1, the shares of the image's sides"),
        ("0 -0.1 0.5 0.2 0.2", "its value -0.1 is not in 0 to 1"),
        ("0 0.5 0.5 0 0.2", "its box is empty: it is 0 wide or high"),
        ("0 0.2 0.2 0.2 0.4 0.2 0.6", "its box is empty"),
        ("red 0.5 0.5 0.2 0.2", "'red 0.5 0.5 0.2 0.2' holds something else than numbers"),
        ("0 nan 0.5 0.2 0.2", "holds something else than finite numbers"),
        ("3 0.5 0.5 0.2 0.2", "its class 3 is not among the classes, which are 0 to 2. Fix it, or add the class."),
        ("-1 0.5 0.5 0.2 0.2", "its class -1 is not among the classes"),
        ("0.5 0.5 0.5 0.2 0.2", "its label is 0.5"),
        ("0 0.9 0.5 0.8 0.2", "reaches outside the image of 40 x 40 pixels"),
    ],
)
def test_a_line_that_cannot_be_used_is_named_and_leaves_out_its_image(tmp_path, line, text):
    ultralytics(tmp_path)
    file = tmp_path / "labels" / "train" / "0.txt"
    file.write_text(f"{yolo_line(0)}{line}\n")
    [problem] = bad(tmp_path)
    assert problem.startswith(f"{file}:2: ")
    assert text in problem
    assert objects_of(tmp_path) == expected(range(1, 12))


def test_rounding_and_clipping(tmp_path):
    ultralytics(tmp_path)
    (tmp_path / "labels" / "train" / "0.txt").write_text("0 0.5 0.5 1.0000001 1\n")
    (tmp_path / "labels" / "train" / "1.txt").write_text("1.0 0.9 0.5 0.4 0.5\r\n")
    assert objects_of(tmp_path, clip_boxes=True)[0] == [(0, 0, 40, 40, "red")]
    assert objects_of(tmp_path, clip_boxes=True)[1] == [(28, 10, 40, 30, "lime")]


def test_files_without_a_counterpart(tmp_path):
    ultralytics(tmp_path)
    (tmp_path / "labels" / "train" / "99.txt").write_text(yolo_line(1))
    (tmp_path / "labels" / "train" / "classes.txt").write_text("\n".join(NAMES))
    (tmp_path / "labels" / "val" / "12.txt").write_bytes(b"0 0.5 0.5 0.2 0.2 # \xe4\n")
    lost, undecoded = bad(tmp_path)
    assert lost.endswith("99.txt:all: there is no image for it: 99.jpg, .png or the like. Add the image, or remove the"
                         " file.")  # fmt: skip
    assert "12.txt:1: it is not UTF-8" in undecoded
    for file in (tmp_path / "labels" / "val").iterdir():
        file.unlink()
    read_custom.cache_clear()
    [mistake] = read_custom(custom_spec(str(tmp_path), "detect")).mistakes
    assert "none of its 4 images has a label file, such as" in mistake


@pytest.mark.parametrize("names", ["classes.txt", "obj.names"])
def test_folders_without_a_data_yaml(tmp_path, names):
    for arrange in (ultralytics, roboflow_yolo):
        folder = arrange(tmp_path / arrange.__name__)
        (folder / "data.yaml").unlink()
        (folder / names).write_text("\n".join(NAMES) + "\n")
        assert objects_of(folder) == expected(range(12 if arrange is ultralytics else 8))
        (folder / names).unlink()
        assert "nothing names the classes. Give --classes" in bad(folder)[0]
        assert objects_of(folder, classes=NAMES)[0] == expected([0])[0]


def test_images_and_labels_without_splits_side_by_side_and_apart(tmp_path):
    apart = tmp_path / "apart"
    yolo_images(apart / "images", apart / "labels", 0, 10)
    (apart / "classes.txt").write_text("\n".join(NAMES))
    # Label Studio writes it
    (apart / "notes.json").write_text(json.dumps({"categories": [], "info": {}}))
    beside = tmp_path / "beside"
    yolo_images(beside, beside, 0, 10)
    (beside / "_darknet.labels").write_text("\n".join(NAMES))
    for folder in (apart, beside):
        assert sorted(len(load_custom(folder, "detect", split=split)) for split in ("train", "test")) == [1, 8]
        together = objects_of(folder) | objects_of(folder, split="validation") | objects_of(folder, split="test")
        assert together == expected(range(10))


def test_lists_of_images(tmp_path):
    ultralytics(tmp_path)
    (tmp_path / "train.txt").write_text("./images/train/1.png\n\nimages/train/2.png\n")
    (tmp_path / "data.yaml").write_text(f"train: train.txt\nval: [images/val]\nnames: {NAMES}\n")
    assert objects_of(tmp_path) == expected([1, 2])
    save_image(tmp_path.parent / "outside.png", 1)
    (tmp_path / "train.txt").write_text("images/train/1.png\n../outside.png\n")
    with pytest.raises(BadRecord, match=r"train.txt:2: ../outside.png is outside"):
        load_custom(tmp_path, "detect")


def test_links_out_of_the_folder_are_refused(tmp_path):
    folder = ultralytics(tmp_path / "data")
    save_image(tmp_path / "other.png", 77)
    (tmp_path / "other.txt").write_text(yolo_line(0))
    (folder / "images" / "train" / "link.png").symlink_to(tmp_path / "other.png")
    label = folder / "labels" / "train" / "0.txt"
    label.unlink()
    label.symlink_to(tmp_path / "other.txt")
    problems = bad(folder)
    assert len(problems) == 2
    assert all("is a link out of" in problem for problem in problems)
    assert bad(folder, image_root=str(tmp_path)) == []


def test_a_box_format_is_refused(tmp_path):
    with pytest.raises(BadRecord, match="boxes of YOLO have a format of their own, and not xyxy. Leave --box_format"):
        load_custom(ultralytics(tmp_path), "detect", box_format="xyxy")
