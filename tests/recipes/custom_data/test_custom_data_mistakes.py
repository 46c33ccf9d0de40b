"""Common mistakes in custom data: each is reported before training, with its place and the remedy."""

import json
import shutil

import pytest
from custom_files import NAMES, SIDE, class_folders, coco, edit, found, save_image, table
from PIL import Image


def boxes(content, change):
    for one in content["annotations"]:
        one["bbox"] = change(*one["bbox"])


def test_good_data_have_no_findings(check, tmp_path):
    error, shown, report = check(coco(tmp_path / "data"), "detect")
    assert not error
    assert "no problems found" in shown
    assert {split: counts["images"] for split, counts in report["splits"].items()} == {
        "train": 16,
        "validation": 2,
        "test": 2,
    }
    assert report["image_sizes"]["largest"] == f"{SIDE}x{SIDE}"
    assert report["findings"] == []


def test_swapped_xywh_and_xyxy_is_caught(check, tmp_path):
    path = edit(coco(tmp_path / "data"), lambda c: boxes(c, lambda x, y, w, h: [x, y, x + w, y + h]))
    error, _, report = check(path, "detect")
    assert "boxes do not fit their images as xywh, and all fit as xyxy" in error
    assert f"{path}:annotation 100: its box" in error
    assert "Give --box_format xyxy" in error
    assert found(report, "box_format")[0][0] == "error"
    error, shown, _ = check(path, "detect", "--box_format", "xyxy")
    assert not error
    assert "no problems found" in shown


def test_xywh_read_as_xyxy_is_caught(check, tmp_path):
    error, *_ = check(coco(tmp_path / "data"), "detect", "--box_format", "xyxy")
    assert "and all fit as xywh" in error


def test_boxes_in_shares_of_the_image_are_caught(check, tmp_path):
    path = edit(coco(tmp_path / "data"), lambda c: boxes(c, lambda *box: [value / SIDE for value in box]))
    error, *_ = check(path, "detect")
    assert "all fit as xywh_relative" in error
    assert not check(path, "detect", "--box_format", "xywh_relative")[0]


def test_rows_before_columns_are_caught(check, tmp_path):
    path = coco(tmp_path / "data")
    edit(path, lambda c: boxes(c, lambda x, y, w, h: [y, x, y + h, x + w]))

    def flat(content):
        for image in content["images"]:
            name = path.parent / "images" / image["file_name"]
            Image.open(name).resize((100, SIDE)).save(name)
            image["width"] = 100
        boxes(content, lambda y0, x0, y1, x1: [y0, x0 + 50, y1, x1 + 50])

    edit(path, flat)
    error, *_ = check(path, "detect")
    assert "all fit as yxyx" in error


def test_a_box_outside_its_image_leaves_that_image_out(check, tmp_path):
    def outside(content):
        content["annotations"][3]["bbox"] = [30, 30, 30, 30]

    path = edit(coco(tmp_path / "data"), outside)
    error, shown, report = check(path, "detect")
    assert not error
    assert f"{path}:annotation 103: its bbox [30.0, 30.0, 30.0, 30.0] reaches outside the image of 40 x 40" in shown
    assert found(report, "box") == [("warning", 1)]
    assert sum(split["images"] for split in report["splits"].values()) == 19


def test_an_empty_box_is_reported(check, tmp_path):
    path = edit(coco(tmp_path / "data"), lambda c: c["annotations"][0].update(bbox=[4, 4, 0, 5]))
    assert "annotation 100: its bbox [4.0, 4.0, 0.0, 5.0] is empty" in check(path, "detect")[1]


def test_1_based_category_ids_are_caught(check, tmp_path):
    def one_based(content):
        for one in content["annotations"]:
            one["category_id"] += 1

    path = edit(coco(tmp_path / "data"), one_based)
    error, *_ = check(path, "detect")
    assert "category ids [3] are used and not among the categories, which are 0 to 2" in error
    assert "1-based" in error
    assert "give --label_offset -1" in error
    error, _, report = check(path, "detect", "--label_offset", "-1")
    assert not error
    assert set(report["splits"]["train"]["classes"]) == set(NAMES)


def test_0_based_category_ids_are_caught(check, tmp_path):
    def categories(content):
        for one in content["categories"]:
            one["id"] += 1

    error, *_ = check(edit(coco(tmp_path / "data"), categories), "detect")
    assert "0-based" in error
    assert "--label_offset 1" in error


def test_a_class_missing_from_the_categories_is_caught(check, tmp_path):
    path = edit(coco(tmp_path / "data"), lambda c: c["annotations"][5].update(category_id=77))
    error, *_ = check(path, "detect")
    assert f"{path}:annotation 105: category ids [77] are used and not among the categories" in error
    assert "Add their names" in error


def test_a_class_missing_from_a_prompt_is_caught(check, tmp_path):
    path = coco(tmp_path / "data")
    error, *_ = check(path, "detect", "--prompt", "detect red ; lime")
    assert "class 'blue' (6 times) is missing from the prompt" in error
    assert "Name it in --prompt" in error
    assert not check(path, "detect", "--prompt", "detect red ; lime ; blue")[0]
    assert not check(path, "detect", "--prompt", "find every {classes}")[0]


def test_a_class_missing_from_a_prompt_of_a_classifier_is_caught(check, tmp_path):
    data = class_folders(tmp_path / "data")
    error, *_ = check(data, "classify", "--prompt", "is it red or blue?")
    assert "class 'lime' (5 times) is missing from the prompt" in error
    assert not check(data, "classify", "--prompt", "which colour is it?")[0]


def test_a_misspelt_class_in_a_prompt_is_reported(check, tmp_path):
    _, shown, _ = check(coco(tmp_path / "data"), "detect", "--prompt", "detect red ; lime ; blue ; grene")
    assert "the prompt names 'grene', which has no example" in shown


@pytest.mark.parametrize("split", ["valid", "test"])
def test_an_empty_split_is_caught(check, tmp_path, split):
    data = tmp_path / "data"
    for place, name in enumerate(("train", "valid", "test")):
        coco(data / name, 0 if name == split else 6, "_annotations.coco.json", first=10 * place, images=".")
    error, *_ = check(data, "detect")
    assert f"the {'validation' if split == 'valid' else split} split is empty" in error
    assert "--resplit true" in error
    assert not check(data, "detect", "--resplit", "true")[0]


def test_a_split_without_a_good_record_is_caught(check, tmp_path):
    table(tmp_path / "data" / "train", [{"text": "a dog"}] * 5)
    table(tmp_path / "data" / "valid", [{"text": ""}] * 5, first=50)
    error, *_ = check(tmp_path / "data", "caption")
    assert "none of the 5 records of the validation split is good" in error


def test_too_few_images_to_split_are_caught(check, tmp_path):
    error, *_ = check(coco(tmp_path / "data", 2), "detect")
    assert "2 different images that can be used, too few" in error
    assert "--validation_data" in error


def test_train_validation_leakage_is_caught(check, tmp_path):
    data = tmp_path / "data"
    class_folders(data / "train", 4)
    class_folders(data / "val", 2, first=50)
    shutil.copy(data / "train" / "red" / "1.png", data / "val" / "red" / "other name.png")
    error, shown, report = check(data, "classify")
    assert not error
    assert "1 images of the validation split are in the train split too" in shown
    assert f"{data / 'val'}:red/other name.png is {data / 'train'}:red/1.png" in shown
    assert ("warning", 1) in found(report, "leakage")


def test_an_automatic_split_has_no_leakage(check, tmp_path):
    data = class_folders(tmp_path / "data", 10)
    for path in sorted(data.glob("*/*.png")):
        shutil.copy(path, path.with_name(f"copy of {path.name}"))
    _, shown, report = check(data, "classify")
    assert not found(report, "leakage")
    assert found(report, "duplicates") == [("warning", 30)]
    assert "images have duplicates" in shown
    assert [split["records"] for split in report["splits"].values()] == [48, 6, 6]


def test_duplicates_with_different_labels_are_caught(check, tmp_path):
    data = class_folders(tmp_path / "data", 10)
    shutil.copy(data / "red" / "1.png", data / "blue" / "x.png")
    _, shown, report = check(data, "classify")
    assert found(report, "contradictions") == [("warning", 1)]
    assert "with different labels" in shown


def test_empty_answers_are_caught(check, tmp_path):
    rows = [{"question": "what?", "answer": "" if number == 3 else "a dog"} for number in range(10)]
    path = table(tmp_path / "data", rows)
    error, shown, report = check(tmp_path / "data", "vqa")
    assert not error
    assert f"1 answers are empty. The first: {path}:4: its answer is empty." in shown
    assert found(report, "empty_answer") == [("warning", 1)]


def test_empty_questions_are_caught(check, tmp_path):
    table(tmp_path / "data", [{"question": "" if number == 3 else "what?", "answer": "x"} for number in range(10)])
    assert "1 questions are empty" in check(tmp_path / "data", "vqa")[1]


def test_many_bad_records_are_an_error(check, tmp_path):
    table(tmp_path / "data", [{"text": "" if number % 5 == 0 else "a dog"} for number in range(100)])
    error, *_ = check(tmp_path / "data", "caption")
    assert "20 answers are empty" in error
    assert not check(tmp_path / "data", "caption", "--train_despite_errors", "true")[0]


def test_a_missing_image_is_reported(check, tmp_path):
    path = coco(tmp_path / "data")
    (tmp_path / "data" / "images" / "7.png").unlink()
    assert f"{path}:image 7: there is no image 7.png" in check(path, "detect")[1]


def test_a_missing_folder_of_images_is_caught(check, tmp_path):
    path = coco(tmp_path / "data")
    shutil.move(tmp_path / "data" / "images", tmp_path / "elsewhere")
    error, *_ = check(path, "detect")
    assert "image_root" in error
    assert not check(path, "detect", "--image_root", str(tmp_path / "elsewhere"))[0]


def test_a_broken_image_is_reported(check, tmp_path):
    path = coco(tmp_path / "data")
    (tmp_path / "data" / "images" / "7.png").write_bytes(b"no image")
    assert "7.png is not an image that can be read" in check(path, "detect")[1]


def test_another_size_than_the_file_says_is_reported(check, tmp_path):
    path = edit(coco(tmp_path / "data"), lambda c: c["images"][2].update(width=400))
    assert "2.png is 40x40 pixels and the file says 400x40" in check(path, "detect")[1]


def test_a_column_that_is_called_otherwise_is_asked_for(check, tmp_path):
    table(tmp_path / "data", [{"frage": "was?", "antwort": "x"}] * 10)
    error, *_ = check(tmp_path / "data", "vqa")
    assert "there is no column question or query or prompt, only file_name, frage, antwort" in error
    assert """--columns '{"question": "NAME"}'""" in error
    columns = '{"question": "frage", "answers": "antwort"}'
    assert not check(tmp_path / "data", "vqa", "--columns", columns)[0]


def test_category_ids_without_names_are_caught(check, tmp_path):
    rows = [{"objects": [{"bbox": [4, 4, 9, 9], "category": number % 3}]} for number in range(10)]
    table(tmp_path / "data", rows)
    error, *_ = check(tmp_path / "data", "detect")
    assert "nothing names the classes" in error
    assert "--classes NAME NAME" in error
    assert not check(tmp_path / "data", "detect", "--classes", *NAMES)[0]


def test_a_class_without_training_examples_is_reported(check, tmp_path):
    class_folders(tmp_path / "data" / "train", 6, ["red", "lime"])
    class_folders(tmp_path / "data" / "val", 3, first=50)
    assert (
        "class 'blue' is in the validation split and not in the train split" in check(tmp_path / "data", "classify")[1]
    )


def test_boxes_too_small_for_the_resolution_are_reported(check, tmp_path):
    path = edit(coco(tmp_path / "data"), lambda c: boxes(c, lambda x, y, w, h: [x, y, 3, 3]))
    shown = check(path, "detect")[1]
    assert "pixels wide or high at a resolution of 16" in shown
    assert "Give a larger --resolution" in shown
    assert "wide or high" not in check(path, "detect", "--resolution", "64")[1]


def test_paths_that_leave_the_folder_are_refused(check, tmp_path):
    outside = save_image(tmp_path / "secret.png", 1)
    table(tmp_path / "data", [{"text": "a dog"}] * 5)
    with (tmp_path / "data" / "metadata.jsonl").open("a") as file:
        file.write(json.dumps({"file_name": "../secret.png", "text": "x"}) + "\n")
        file.write(json.dumps({"file_name": "link.png", "text": "x"}) + "\n")
    (tmp_path / "data" / "link.png").symlink_to(outside)
    _, shown, report = check(tmp_path / "data", "caption")
    assert "../secret.png is outside" in shown
    assert found(report, "image") == [("warning", 2)]


def test_a_class_whose_name_an_answer_cannot_hold_is_reported(check, tmp_path):
    path = edit(coco(tmp_path / "data"), lambda c: c["categories"][1].update(name="lime; green"))
    error, _, report = check(path, "detect")
    assert "'lime; green' cannot be a label" in error + json.dumps(report)


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        ("nowhere", "detect", "there is no such file or folder. Check the path; a name on the Hub is hf:NAME"),
        ("empty", "detect", "the folder holds nothing for detect"),
        ("notes.txt", "vqa", ".txt cannot be read. Give .json, .jsonl, .csv or .tsv"),
        ("torn.json", "detect", "it is not JSON"),
        ("latin.csv", "caption", "latin.csv:2: it is not UTF-8 (byte 0xe4; perhaps Latin-1 or Windows-1252). Save"),
    ],
)
def test_what_is_no_data_is_reported(check, tmp_path, data, kind, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "latin.csv").write_bytes("file_name,text\na.png,Bär".encode("latin-1"))
    (tmp_path / "torn.json").write_text('{"images": [')
    assert message in check(tmp_path / data, kind)[0]


def test_an_unknown_kind_and_box_format_are_reported(check, tmp_path):
    assert "invalid choice: 'detct'" in check(coco(tmp_path / "data"), "detct")[0]
    assert "box_format is one of xywh, xyxy" in check(coco(tmp_path / "data"), "detect", "--box_format", "ltwh")[0]


def test_two_files_for_one_split_are_reported(check, tmp_path):
    coco(tmp_path / "data", 5, "train_a.json")
    coco(tmp_path / "data", 5, "train_b.json", first=10)
    error, *_ = check(tmp_path / "data", "detect")
    assert "it is not clear which of train_a.json, train_b.json" in error
