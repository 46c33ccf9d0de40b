"""Images of custom data: bit depth, EXIF orientation, and which files count as images."""

import json

import numpy as np
import pytest
from custom_files import NAMES, SIDE, class_folders, coco, edit, found, save_image, table
from custom_records import all_records, rows
from PIL import Image


@pytest.mark.parametrize("kind", ["float", "int"])
def test_images_of_more_than_8_bits_are_not_black(check, tmp_path, kind):
    path = table(tmp_path / "data", rows(label=lambda n: NAMES[n % 3]))
    for file in sorted((tmp_path / "data").glob("*.png")):
        grey = np.asarray(Image.open(file).convert("L"))
        values = (grey / 255).astype(np.float32) if kind == "float" else grey.astype(np.int32)
        Image.fromarray(values).save(file.with_suffix(".tif"))
    path.write_text(path.read_text().replace(".png", ".tif"))
    assert not found(check(path, "classify")[2], "black_images")
    for record in all_records(path, "classify"):
        name = path.parent / f"{int(record['id'].rpartition(':')[2]) - 1}.png"
        with Image.open(name) as before:
            np.testing.assert_array_equal(np.asarray(record["image"])[:, :, 0], np.asarray(before.convert("L")))


@pytest.mark.parametrize(("black", "level"), [(3, "warning"), (20, "error")])
def test_black_images_are_reported(check, tmp_path, black, level):
    path = table(tmp_path / "data", rows(label=lambda n: NAMES[n % 3]))
    for number in range(black):
        values = np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE) + number
        # 12 bits in 16
        Image.fromarray(values).save(tmp_path / "data" / f"{number}.png")
    error, shown, report = check(path, "classify")
    assert found(report, "black_images") == [(level, black)]
    assert f"{black} of 20 decoded images are black: no pixel is brighter than 15" in error + shown
    assert bool(error) == (level == "error")


def test_images_of_one_colour_are_reported(check, tmp_path):
    path = table(tmp_path / "data", rows(label=lambda n: NAMES[n % 3]))
    Image.new("RGB", (40, 40), (90, 90, 90)).save(tmp_path / "data" / "4.png")
    assert "1 of 20 decoded images are of one colour. The first: " in check(path, "classify")[1]


def turn(path, orientation, wide=80):
    """Have EXIF turn an image that is stored with twice the width."""
    exif = Image.Exif()
    exif[0x112] = orientation
    with Image.open(path) as image:
        image.resize((wide, 40)).save(path, exif=exif)


@pytest.mark.parametrize("declared", [False, True])
def test_photographs_annotated_as_they_are_stored_are_reported_and_turned(check, tmp_path, declared):
    box = {"bbox": [50, 10, 20, 20], "category": "red"}
    size = {"width": 80, "height": 40} if declared else {}
    path = table(tmp_path / "data", [row | size for row in rows(objects=lambda n: [box])])
    for number in range(20):
        turn(tmp_path / "data" / f"{number}.png", 6 if number % 2 else 1)
    error, _, report = check(path, "detect")
    assert "EXIF turns 10 images, and annotations are for them as they are stored" in error
    assert "Give --orientation stored." in error
    assert not found(report, "box_format")
    error, shown, _ = check(path, "detect", "--orientation", "stored")
    assert not error
    assert "no problems found" in shown
    for record in all_records(path, "detect", orientation="stored"):
        (item,) = record["objects"]
        corners = (item["box"].x0, item["box"].y0, item["box"].x1, item["box"].y1)
        turned = record["image"].size == (40, 80)
        assert corners == pytest.approx((0.25, 0.625, 0.75, 0.875) if turned else (0.625, 0.25, 0.875, 0.75))


def test_photographs_annotated_upright_need_nothing(check, tmp_path):
    path = table(tmp_path / "data", rows(objects=lambda n: [{"bbox": [10, 50, 20, 20], "category": "red"}]))
    for number in range(20):
        turn(tmp_path / "data" / f"{number}.png", 6)
    assert "no problems found" in check(path, "detect")[1]
    assert "annotations are for them upright" in check(path, "detect", "--orientation", "stored")[0]


@pytest.mark.parametrize(("orientation", "wide"), [(3, 80), (2, 80), (6, 40), (6, 80)])
def test_unknown_orientations_are_a_warning(check, tmp_path, orientation, wide):
    path = table(tmp_path / "data", rows(objects=lambda n: [{"bbox": [4, 4, 20, 20], "category": "red"}]))
    for number in range(20):
        turn(tmp_path / "data" / f"{number}.png", orientation, wide)
    error, shown, report = check(path, "detect")
    assert not error
    assert "Whether they were annotated upright or as they are stored is unknown" in shown
    assert found(report, "orientation") == [("warning", 20)]


def test_photographs_annotated_now_in_one_way_and_now_in_the_other_are_an_error(check, tmp_path):
    boxes = [[50, 10, 20, 20], [10, 50, 20, 20]]
    path = table(tmp_path / "data", rows(objects=lambda n: [{"bbox": boxes[n % 2], "category": "red"}]))
    for number in range(20):
        turn(tmp_path / "data" / f"{number}.png", 6)
    assert "of which 10 are annotated upright and 10 as they are stored" in check(path, "detect")[0]


def test_sizes_of_turned_photographs_matter_to_boxes_alone(check, tmp_path):
    path = table(tmp_path / "data", [row | {"width": 80, "height": 40} for row in rows(text=lambda n: f"square {n}")])
    for number in range(20):
        turn(tmp_path / "data" / f"{number}.png", 6)
    assert "no problems found" in check(path, "caption")[1]


def test_records_with_several_images_are_reported(check, tmp_path):
    table(tmp_path / "data", rows(text=str))
    path = tmp_path / "data" / "metadata.jsonl"
    lines = [{"images": [f"{n}.png", "0.png"][: 1 + (n == 5)], "text": "x"} for n in range(20)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    _, shown, report = check(path, "caption")
    assert f"{path}:6: it has 2 images, and a record with --kind has one" in shown
    assert found(report, "image") == [("warning", 1)]


def test_hidden_files_are_no_images(tmp_path):
    data = class_folders(tmp_path, 6)
    save_image(data / "red" / ".ipynb_checkpoints" / "0-checkpoint.png", 8)
    (data / "red" / "._0.png").write_bytes(b"\0\5\x16\7")
    save_image(data / "__MACOSX" / "red" / "0.png", 9)
    assert len(all_records(data, "classify")) == 18


@pytest.mark.parametrize("kind", ["caption", "classify", "detect"])
def test_whole_paths_and_links_within_the_image_root_are_allowed(check, tmp_path, kind):
    """As DVC, git-annex and the cache of the Hub have it."""
    root = tmp_path / "root"
    data = root / "snapshots" / "abc"
    if kind == "detect":
        path = coco(data)
        edit(path, lambda c: [one.update(file_name=str(data / "images" / one["file_name"])) for one in c["images"]])
    elif kind == "caption":
        path = table(data, rows(text=str))
        path.write_text(path.read_text().replace('"file_name": "', f'"file_name": "{data}/'))
    else:
        path = class_folders(data, 8)
    (root / "blobs").mkdir()
    for number, file in enumerate(sorted(data.rglob("*.png"))):
        file.rename(root / "blobs" / str(number))
        file.symlink_to(root / "blobs" / str(number))
    error, *_ = check(path, kind)
    assert "is a link out of" in error
    assert "--image_root" in error or "image_root that holds both" in error
    error, shown, _ = check(path, kind, "--image_root", str(root))
    assert not error
    assert "cannot be used" not in shown


def test_whole_paths_elsewhere_are_refused(check, tmp_path):
    path = table(tmp_path / "data", rows(text=str))
    other = save_image(tmp_path / "secret.png", 1)
    with path.open("a") as file:
        file.write(json.dumps({"file_name": str(other), "text": "x"}) + "\n")
    assert f"{other} is outside {tmp_path / 'data'}" in check(path, "caption")[1]
