"""Files of data as people have them: joined, turned, exported by other systems; each is read right, or told."""

import csv
import json
import re
import shutil
import unicodedata

import datasets
import numpy as np
import pytest
from custom_files import NAMES, SIDE, class_folders, coco, edit, found, save_image, some_box, table
from PIL import Image
from tiny_adapters import save_checkpoint

from openpali.data.custom.dataset import custom_spec, read_custom
from openpali.data.records import BadRecord
from openpali.data.sources import load_source
from openpali.recipes import transfer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, tiny_tokenizer):
    return save_checkpoint("pali3", tiny_tokenizer, tmp_path_factory.mktemp("pali3"))


def rows(count=20, **columns):
    return [{key: value(number) for key, value in columns.items()} for number in range(count)]


def source(path, kind, **options):
    read_custom.cache_clear()
    return load_source({"name": "custom", "path": str(path), "kind": kind, **options})


def every(path, kind, **options):
    """All records of all parts."""
    parts = [source(path, kind, split=part, **options) for part in ("train", "validation", "test")]
    return [part[index] for part in parts for index in range(len(part))]


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
    assert sorted(record["id"].split()[-1] for record in every(path, "detect")) == sorted(map(str, range(4, 12)))


@pytest.mark.parametrize("kind", ["detect", "segment", "caption"])
def test_ids_match_as_numbers_and_as_texts(check, tmp_path, kind):
    def as_text(one):
        one.update(image_id=f"{one['image_id']}", caption=f"square {one['id']}")

    path = coco(tmp_path / "data")
    edit(path, lambda c: [as_text(one) for one in c["annotations"]])
    error, shown, _ = check(path, kind)
    assert not error
    assert "nothing is wrong with them" in shown
    records = every(path, kind)
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
    assert all(record["objects"] for record in every(path, "detect"))


def test_data_without_any_object_are_told(check, tmp_path):
    path = edit(coco(tmp_path / "data"), lambda c: c.update(annotations=[]))
    assert "none of its 20 images has an object" in check(path, "detect")[0]
    error, *_ = check(path, "detect", "--train_despite_errors", "true")
    assert "no image has an object to be found. Give it annotations." in error
    table(tmp_path / "lines", rows(objects=lambda n: []))
    assert "none of its 20 images has an object" in check(tmp_path / "lines", "segment")[0]


@pytest.mark.parametrize("label", [int, str, float, lambda n: f"{n}.0", lambda n: NAMES[n]])
@pytest.mark.parametrize("file", ["metadata.jsonl", "metadata.csv"])
def test_numbers_of_classes_become_their_names(tmp_path, label, file):
    table(tmp_path, rows(label=lambda n: label(n % 3)), file)
    records = every(tmp_path, "classify", classes=NAMES)
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


def test_numbers_without_names_are_classes_of_their_own_and_told(check, tmp_path):
    table(tmp_path / "data", rows(label=lambda n: f"{n % 3}.0"))
    error, shown, report = check(tmp_path / "data", "classify")
    assert not error
    assert set(report["parts"]["train"]["classes"]) == {"0", "1", "2"}
    assert "the classes are called 0, 1, 2. If they have names, say them" in shown


def test_a_list_of_classes_beside_named_categories_must_agree_with_them(check, tmp_path):
    path = edit(coco(tmp_path / "data"), lambda c: [one.update(id=one["id"] + 1) for one in c["categories"]])
    edit(path, lambda c: [one.update(category_id=one["category_id"] + 1) for one in c["annotations"]])
    # their order is no numbering: the file has its own, from 1
    assert not check(path, "detect", "--classes", "blue", "red", "lime")[0]
    for record in every(path, "detect", classes=["blue", "red", "lime"]):
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
    assert "nothing is wrong with them" in shown
    line = ["--model", str(checkpoint), "--data", str(path), "--kind", "detect", "--output_dir", str(tmp_path / "x")]
    read_custom.cache_clear()
    task = transfer.configure(transfer.with_default_config([*line, "--use_cpu", "true"]))[0].task
    assert task["classes"] == NAMES
    edit(path, lambda c: c["annotations"][0].update(category_id=0))
    assert "classes 0 and 1 are both called 'red', and are trained as one" in check(path, "detect")[1]


def test_names_that_are_one_to_a_metric_or_to_a_reader_are_told(check, tmp_path):
    names = ["Red", "red", "traffic light", "traffic_light", "dark  blue", "dark blue"]
    table(tmp_path / "data", rows(60, label=lambda n: names[n % 6]))
    _, shown, report = check(tmp_path / "data", "classify")
    assert "'Red' and 'red'; 'dark  blue' and 'dark blue' count as one class in the scores" in shown.replace(
        "'red' and 'Red'", "'Red' and 'red'"
    )
    assert "'traffic light' and 'traffic_light' differ by case, space, - or _ alone" in shown
    assert found(report, "class_names") == [("warning", 2), ("warning", 1)]


@pytest.mark.parametrize("kind", ["float", "int"])
def test_images_of_more_than_8_bits_are_not_black(check, tmp_path, kind):
    path = table(tmp_path / "data", rows(label=lambda n: NAMES[n % 3]))
    for file in sorted((tmp_path / "data").glob("*.png")):
        grey = np.asarray(Image.open(file).convert("L"))
        values = (grey / 255).astype(np.float32) if kind == "float" else grey.astype(np.int32)
        Image.fromarray(values).save(file.with_suffix(".tif"))
    path.write_text(path.read_text().replace(".png", ".tif"))
    assert not found(check(path, "classify")[2], "black_images")
    for record in every(path, "classify"):
        name = path.parent / f"{int(record['id'].rpartition(':')[2]) - 1}.png"
        with Image.open(name) as before:
            np.testing.assert_array_equal(np.asarray(record["image"])[:, :, 0], np.asarray(before.convert("L")))


@pytest.mark.parametrize(("black", "level"), [(3, "warning"), (20, "error")])
def test_black_images_are_told(check, tmp_path, black, level):
    path = table(tmp_path / "data", rows(label=lambda n: NAMES[n % 3]))
    for number in range(black):
        values = np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE) + number
        # 12 bits in 16
        Image.fromarray(values).save(tmp_path / "data" / f"{number}.png")
    error, shown, report = check(path, "classify")
    assert found(report, "black_images") == [(level, black)]
    assert f"{black} of 20 images that were looked at are black: no pixel is brighter than 15" in error + shown
    assert bool(error) == (level == "error")


def test_images_of_one_colour_are_told(check, tmp_path):
    path = table(tmp_path / "data", rows(label=lambda n: NAMES[n % 3]))
    Image.new("RGB", (40, 40), (90, 90, 90)).save(tmp_path / "data" / "4.png")
    assert "1 of 20 images that were looked at are of one colour. The first: " in check(path, "classify")[1]


def outlines(content, change):
    for one in content["annotations"]:
        points = one["segmentation"][0]
        pairs = zip(points[::2], points[1::2])
        one["segmentation"] = [[value for point in pairs for value in change(*point)]]


@pytest.mark.parametrize(
    ("change", "told"),
    [(lambda x, y: (x / SIDE, y / SIDE), "shares of the image's sides"), (lambda x, y: (y, x), "x and y exchanged")],
)
def test_outlines_in_other_units_than_their_boxes_are_told(check, tmp_path, change, told):
    path = edit(coco(tmp_path / "data"), lambda c: outlines(c, change))
    error, _, report = check(path, "segment")
    assert f"annotation 100: the outlines do not fit their boxes, and would as {told}. Write them as x1, y1" in error
    assert not check(path, "detect")[0]


def test_an_outline_elsewhere_than_its_box_leaves_its_image_out(check, tmp_path):
    path = edit(coco(tmp_path / "data"), lambda c: c["annotations"][2].update(segmentation=[[0, 0, 6, 0, 6, 6]]))
    error, shown, report = check(path, "segment")
    assert not error
    assert "annotation 102: its outline is at 0, 0 to 6, 6 and its box at" in shown
    assert found(report, "outline") == [("warning", 1)]


def turn(path, orientation, wide=80):
    """Have EXIF turn an image that is stored with twice the width."""
    exif = Image.Exif()
    exif[0x112] = orientation
    with Image.open(path) as image:
        image.resize((wide, 40)).save(path, exif=exif)


@pytest.mark.parametrize("declared", [False, True])
def test_photographs_annotated_as_they_are_stored_are_told_and_turned(check, tmp_path, declared):
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
    assert "nothing is wrong with them" in shown
    for record in every(path, "detect", orientation="stored"):
        (item,) = record["objects"]
        corners = (item["box"].x0, item["box"].y0, item["box"].x1, item["box"].y1)
        turned = record["image"].size == (40, 80)
        assert corners == pytest.approx((0.25, 0.625, 0.75, 0.875) if turned else (0.625, 0.25, 0.875, 0.75))


def test_photographs_annotated_upright_need_nothing(check, tmp_path):
    path = table(tmp_path / "data", rows(objects=lambda n: [{"bbox": [10, 50, 20, 20], "category": "red"}]))
    for number in range(20):
        turn(tmp_path / "data" / f"{number}.png", 6)
    assert "nothing is wrong with them" in check(path, "detect")[1]
    assert "annotations are for them upright" in check(path, "detect", "--orientation", "stored")[0]


@pytest.mark.parametrize(("orientation", "wide"), [(3, 80), (2, 80), (6, 40), (6, 80)])
def test_frames_of_which_nothing_tells_are_a_warning(check, tmp_path, orientation, wide):
    path = table(tmp_path / "data", rows(objects=lambda n: [{"bbox": [4, 4, 20, 20], "category": "red"}]))
    for number in range(20):
        turn(tmp_path / "data" / f"{number}.png", orientation, wide)
    error, shown, report = check(path, "detect")
    assert not error
    assert "nothing says whether they were annotated upright or as they are stored" in shown
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
    assert "nothing is wrong with them" in check(path, "caption")[1]


def test_a_mark_for_the_image_is_no_part_of_a_question(tmp_path):
    table(tmp_path, rows(question=lambda n: f"<image>\nwhat is {n}?", answer=lambda n: "x"))
    assert {record["question"][:8] for record in every(tmp_path, "vqa")} == {"what is "}


CONVERSATIONS = {
    "llava": lambda n: {
        "image": f"{n}.png",
        "conversations": [
            {"from": "human", "value": f"<image>\nwhat is {n}?"},
            {"from": "gpt", "value": "red"},
            {"from": "human", "value": "is it large?"},
            {"from": "gpt", "value": "no"},
        ],
    },
    "messages": lambda n: {
        "images": [f"{n}.png"],
        "messages": [
            {"role": "system", "content": "answer shortly"},
            {"role": "user", "content": f"<image>what is {n}?"},
            {"role": "assistant", "content": "red"},
        ],
    },
}


@pytest.mark.parametrize("form", CONVERSATIONS)
@pytest.mark.parametrize("file", ["metadata.jsonl", "talk.json"])
def test_conversations_are_read(check, tmp_path, form, file):
    path = table(tmp_path / "data", rows(text=str)).rename(tmp_path / "data" / file)
    talks = [CONVERSATIONS[form](number) for number in range(20)]
    path.write_text(json.dumps(talks) if file.endswith(".json") else "".join(json.dumps(one) + "\n" for one in talks))
    error, shown, _ = check(path, "vqa")
    assert not error
    assert "nothing is wrong with them" in shown
    told = {(record["question"], *record["answers"]) for record in every(path, "vqa")}
    expected = {(f"what is {number}?", "red") for number in range(20)}
    assert told == expected | ({("is it large?", "no")} if form == "llava" else set())
    assert {record["captions"]["en"][0] for record in every(path, "caption")} == {pair[1] for pair in told}


def test_conversations_of_a_saved_data_set_are_read(tmp_path):
    table(tmp_path / "files", rows(text=str))
    content = {
        "images": [[str(tmp_path / "files" / f"{number}.png")] for number in range(20)],
        "messages": [CONVERSATIONS["messages"](number)["messages"] for number in range(20)],
    }
    data = datasets.Dataset.from_dict(content).cast_column("images", datasets.List(datasets.Image()))
    data.save_to_disk(str(tmp_path / "saved"))
    records = every(tmp_path / "saved", "vqa")
    assert {(record["question"], *record["answers"]) for record in records} == {
        (f"what is {number}?", "red") for number in range(20)
    }
    assert {record["image"].size for record in records} == {(SIDE, SIDE)}


def test_records_with_several_images_are_told(check, tmp_path):
    table(tmp_path / "data", rows(text=str))
    path = tmp_path / "data" / "metadata.jsonl"
    lines = [{"images": [f"{n}.png", "0.png"][: 1 + (n == 5)], "text": "x"} for n in range(20)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    _, shown, report = check(path, "caption")
    assert f"{path}:6: it has 2 images, and a record of a kind has one" in shown
    assert found(report, "picture") == [("warning", 1)]


def test_what_a_run_wrote_among_the_classes_is_no_data(check, checkpoint, tmp_path):
    data = class_folders(tmp_path / "data", 8)
    line = ["--model", str(checkpoint), "--data", str(data), "--kind", "classify", "--use_cpu", "true"]
    for place in ("run", "outputs/first", "red/run"):
        transfer.main([*line, "--output_dir", str(data / place), "--check_only", "true"])
        shutil.copytree(checkpoint, data / place / "checkpoint-3")
        save_image(data / place / "examples.png", 9)
    error, shown, report = check(data, "classify")
    assert not error
    assert {name for part in report["parts"].values() for name in part["classes"]} == set(NAMES)
    assert sum(part["records"] for part in report["parts"].values()) == 24
    assert "not read, since runs wrote them: outputs/first, red/run, run" in shown


@pytest.mark.parametrize("place", ["", "red"])
def test_a_run_does_not_write_where_the_data_are(check, tmp_path, place):
    data = class_folders(tmp_path / "data", 8)
    error, *_ = check(data, "classify", "--output_dir", str(data / place))
    assert "holds the data; give the run a folder of its own" in error
    assert not list(data.glob("**/data_check.json"))


def test_files_of_a_run_beside_data_are_not_taken_for_them(check, tmp_path):
    data = coco(tmp_path / "data").parent
    (data / "data_check.json").write_text("{}")
    (data / "metrics.json").write_text("{}")
    error, *_ = check(data, "detect")
    assert "a run wrote into this folder, and it is not clear which of annotations.json, data_check.json" in error


def test_folders_beside_parts_are_unclear(check, tmp_path):
    for part in ("train", "val"):
        class_folders(tmp_path / "data" / part, 4, first=100 * len(part))
    (tmp_path / "data" / ".ipynb_checkpoints").mkdir()
    assert not check(tmp_path / "data", "classify")[0]
    save_image(tmp_path / "data" / "extra" / "1.png", 77)
    error, *_ = check(tmp_path / "data", "classify")
    assert "it is not clear what extra is beside train, val" in error
    # a vehicle
    (class_folders(tmp_path / "vehicles", 6, ["blue", "red"]) / "blue").rename(tmp_path / "vehicles" / "train")
    assert set(check(tmp_path / "vehicles", "classify")[2]["parts"]["train"]["classes"]) == {"train", "red"}


def test_hidden_files_are_no_images(tmp_path):
    data = class_folders(tmp_path, 6)
    save_image(data / "red" / ".ipynb_checkpoints" / "0-checkpoint.png", 8)
    (data / "red" / "._0.png").write_bytes(b"\0\5\x16\7")
    save_image(data / "__MACOSX" / "red" / "0.png", 9)
    assert len(every(data, "classify")) == 18


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


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("file", ["metadata.jsonl", "metadata.csv", "list.json"])
def test_files_of_every_system_are_read(tmp_path, encoding, file):
    path = table(tmp_path, rows(text=str))
    lines = [{"file_name": f"{number}.png", "text": "Bär\u2028und „Maus“"} for number in range(20)]
    path.unlink()
    path = tmp_path / file
    if file.endswith(".csv"):
        content = "file_name;text\r\n" + "".join(f"{line['file_name']};{line['text']}\r\n" for line in lines)
    elif file.endswith(".json"):
        content = json.dumps(lines, ensure_ascii=False)
    else:
        content = "".join(json.dumps(line, ensure_ascii=False) + "\r\n" for line in lines)
    path.write_bytes(content.encode(encoding))
    assert {record["captions"]["en"][0] for record in every(path, "caption")} == {"Bär\u2028und „Maus“"}


@pytest.mark.parametrize("file", ["metadata.jsonl", "metadata.csv", "list.json", "coco.json"])
def test_latin_1_is_told_with_its_line(tmp_path, file):
    path = tmp_path / file
    path.write_bytes('{"images": [],\n "x": "Bär"}'.encode("latin-1"))
    with pytest.raises(BadRecord) as error:
        source(path, "caption")
    assert str(error.value) == (
        f"{path}:2: it is not UTF-8 (byte 0xe4; perhaps Latin-1 or Windows-1252). Save the file as UTF-8."
    )


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("told", [False, True])
def test_csv_files_of_any_separator_are_read(tmp_path, separator, told):
    table(tmp_path, rows(text=str))
    path = tmp_path / "my.csv"
    with path.open("w", newline="") as file:
        file.write(f"sep={separator}\r\n" * told)
        writer = csv.writer(file, delimiter=separator)
        writer.writerows([["file_name", "text"], *([f"{number}.png", "a, b; c"] for number in range(20))])
    assert {record["captions"]["en"][0] for record in every(path, "caption")} == {"a, b; c"}


def test_a_row_with_more_values_than_columns_is_told(check, tmp_path):
    table(tmp_path / "data", rows(text=str))
    path = tmp_path / "data" / "my.csv"
    lines = [f"{number}.png,a red" + ", large square" * (number == 3) for number in range(20)]
    path.write_text("\n".join(["file_name,text", *lines]))
    _, shown, report = check(path, "caption")
    assert f"{path}:5: it has 3 values, and the header names 2 columns. Put texts that hold" in shown
    assert found(report, "line") == [("warning", 1)]


def test_names_of_macos_match_those_of_others(tmp_path):
    composed, apart = (unicodedata.normalize(form, "bär") for form in ("NFC", "NFD"))
    table(tmp_path / "a", [{"file_name": f"{composed}{number}.png", "text": "x"} for number in range(20)])
    for file in list((tmp_path / "a").glob("*.png")):
        file.rename(file.with_name(unicodedata.normalize("NFD", file.name)))
    assert len(every(tmp_path / "a", "caption")) == 20
    for part, name in (("train", composed), ("val", apart)):
        folder = class_folders(tmp_path / "b" / part, 4, ["blue", "red"], first=len(part) * 100)
        (folder / "blue").rename(folder / name)
    assert source(tmp_path / "b", "classify").classes == [composed, "red"]


def test_boxes_outside_are_clipped_where_that_is_asked_for_and_counted(check, tmp_path):
    path = edit(coco(tmp_path / "data"), lambda c: c["annotations"][3].update(bbox=[30, 30, 30, 30]))
    assert found(check(path, "detect")[2], "box") == [("warning", 1)]
    error, shown, report = check(path, "detect", "--clip_boxes", "true")
    assert not error
    assert f"1 boxes reach outside their images and are clipped, the first is {path}:annotation 103" in shown
    (record,) = [one for one in every(path, "detect", clip_boxes=True) if one["id"].endswith(" 3")]
    box = record["objects"][0]["box"]
    assert (box.x0, box.y0, box.x1, box.y1) == (0.75, 0.75, 1, 1)
    # another format is still told
    edit(path, lambda c: [one.update(bbox=[*some_box(5)[:2], 39, 39]) for one in c["annotations"]])
    assert "all fit as xyxy" in check(path, "detect", "--clip_boxes", "true")[0]


def test_what_other_tools_export_is_read_or_told(check, tmp_path):
    def told(name, change, kind="segment"):
        error, *_ = check(edit(coco(tmp_path / name), lambda c: [change(one) for one in c["annotations"]]), kind)
        return error

    assert "its outline covers no pixel" in told(
        "empty", lambda one: one.update(segmentation={"size": [SIDE, SIDE], "counts": [SIDE * SIDE]})
    )
    assert "Put the polygon into a list: [[x1, y1" in told(
        "flat", lambda one: one.update(segmentation=one["segmentation"][0])
    )
    assert "a polygon that is a list of points; write x1, y1" in told(
        "points", lambda one: one.update(segmentation=[[[1, 2], [3, 4], [5, 6]]])
    )
    save_image(tmp_path / "yolo" / "images" / "1.png", 1)
    (tmp_path / "yolo" / "labels").mkdir()
    (tmp_path / "yolo" / "labels" / "1.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    assert (
        "but files of YOLO (.txt) or Pascal VOC (.xml). Export them as COCO JSON"
        in check(tmp_path / "yolo", "detect")[0]
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"file_name,text,text\n0.png,a,b\n", ":1: two columns are called 'text'. Rename one of them"),
        (b"PK\3\4\0\0", "it is no text, but a workbook, an archive or the like. Export it as text"),
        (b"file_name,text\n0.PNG,a\n", "there is no image 0.PNG in .* There is 0.png: mind the case"),
        (b"file_name,text\ndata:image/png;base64,AAAA,a\n", "it has 3 values"),
        (b'file_name,text\n"data:image/png;base64,AAAA",a\n', "is no name of a file. Save the image as a file"),
    ],
)
def test_odd_tables_are_told(tmp_path, content, message):
    table(tmp_path, rows(text=str))
    (tmp_path / "my.csv").write_bytes(content)
    read_custom.cache_clear()
    try:
        told = str(read_custom(custom_spec(str(tmp_path / "my.csv"), "caption")).bad[0])
    except BadRecord as bad:
        told = str(bad)
    assert re.search(message, told)


def test_headers_and_names_of_other_habits_are_read(tmp_path):
    table(tmp_path, rows(text=str))
    lines = [f"file://{tmp_path}/{number}.png;x" for number in range(20)]
    (tmp_path / "my.csv").write_text("\n".join(["File_Name; Text", *lines]))
    assert {record["captions"]["en"][0] for record in every(tmp_path / "my.csv", "caption")} == {"x"}
