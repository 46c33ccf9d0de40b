"""Layouts of other tools from the command line: downloads as they are, and their checks."""

import json
import re

import pytest
from custom_files import found
from layout_files import (
    location_line,
    roboflow_coco,
    roboflow_paligemma,
    roboflow_voc,
    roboflow_yolo,
    ultralytics,
    voc,
    yolo_line,
)

from openpali.data.collator import Collator
from openpali.data.custom.dataset import read_custom
from openpali.modeling.auto import load_processor
from openpali.recipes import transfer


@pytest.mark.parametrize("download", [roboflow_coco, roboflow_yolo, roboflow_voc, roboflow_paligemma])
def test_downloads_of_roboflow_work_as_they_are(check, tmp_path, download):
    error, shown, report = check(download(tmp_path / "data"), "detect")
    assert not error
    assert "no problems found" in shown
    assert {split: counts["records"] for split, counts in report["splits"].items()} == {
        "train": 8,
        "validation": 3,
        "test": 3,
    }
    assert report["splits"]["train"]["classes"] == {"red": 3, "lime": 3, "blue": 2}


@pytest.fixture(autouse=True)
def few_examples_are_enough(monkeypatch):
    """The fixtures are small, which is another test's finding; so are their boxes."""
    monkeypatch.setattr("openpali.recipes.custom_data.class_checks.FEW", 0)
    monkeypatch.setattr("openpali.recipes.custom_data.region_checks.SMALL", 0)


def test_polygons_of_yolo_are_segmented(check, tmp_path):
    error, shown, report = check(ultralytics(tmp_path / "data", polygon=True), "segment")
    assert not error
    assert "no problems found" in shown
    assert report["splits"]["train"]["records"] == 12


def test_bad_lines_are_left_out_and_many_of_them_are_errors(check, tmp_path):
    folder = ultralytics(tmp_path / "data")
    file = folder / "labels" / "train" / "0.txt"
    file.write_text("0 0.5 0.5\n")
    (folder / "labels" / "train" / "lost.txt").write_text(yolo_line(0))
    error, shown, report = check(folder, "detect")
    assert not error
    assert f"1 boxes cannot be used; their images are left out. The first: {file}:1: it has 3 values" in shown
    assert found(report, "image") == [("warning", 1)]
    for one in (folder / "labels").rglob("*.txt"):
        one.write_text("0 12 12 6 6\n")
    assert "its value 12 is not in 0 to 1, the shares of the image's sides" in check(folder, "detect")[0]
    for one in (folder / "labels").rglob("*.txt"):
        one.write_text("0 0.9 0.9 0.8 0.8\n")
    error, *_ = check(folder, "detect")
    assert "boxes reach outside their images" in error
    assert "Correct them, or give --clip_boxes true." in error
    assert not check(folder, "detect", "--clip_boxes", "true")[0]


def test_numbers_from_one_are_told_with_their_option(check, tmp_path):
    folder = ultralytics(tmp_path / "data")
    for one in (folder / "labels").rglob("*.txt"):
        number, rest = one.read_text().split(" ", 1)
        one.write_text(f"{int(number) + 1} {rest}")
    assert "give --label_offset -1" in check(folder, "detect")[0]
    assert not check(folder, "detect", "--label_offset", "-1")[0]


def test_a_declared_size_and_difficult_objects_of_voc(check, tmp_path):
    folder = voc(tmp_path / "data")
    file = folder / "Annotations" / "0.xml"
    file.write_text(file.read_text().replace("<difficult>0", "<difficult>1"))
    other = folder / "Annotations" / "1.xml"
    other.write_text(other.read_text().replace("<height>40", "<height>50"))
    error, shown, report = check(folder, "detect")
    assert not error
    assert f"{other}:all: 1.png is 40x40 pixels and the file says 40x50" in shown
    assert "1 objects are difficult" in shown
    assert report["splits"]["train"]["records"] == 9


@pytest.mark.parametrize("place", ["", "dataset", "dataset/_annotations.train.jsonl"])
def test_location_tokens_without_a_kind_are_tokens(checkpoint, tmp_path, capsys, place):
    path = roboflow_paligemma(tmp_path / "data") / place
    line = ["--model", str(checkpoint), "--data", str(path), "--output_dir", str(tmp_path / "run")]
    line = transfer.with_default_config([*line, "--use_cpu", "true", "--max_steps", "1"])
    args, custom, mix, *_, run = transfer.configure(line)
    tasks = transfer.load_tasks(args, mix, custom, run, transfer.mixture_values(args, mix))
    [data] = tasks.values()
    processor = load_processor(str(checkpoint))
    example = data.train[0]
    batch = Collator(processor)([example])
    labels = [token for token in batch["labels"][0].tolist() if token != -100]
    words = processor.tokenizer.convert_ids_to_tokens(labels)
    assert words[:4] == re.findall("<loc[0-9]{4}>", example.suffix)
    assert "suffixes have location tokens, which are tokens of the model" in capsys.readouterr().out


def test_location_tokens_of_a_kind_that_reads_letters_are_an_error(check, tmp_path):
    data = roboflow_paligemma(tmp_path / "data") / "dataset"
    columns = json.dumps({"question": "prefix", "answers": "suffix"})
    error, *_ = check(data, "vqa", "--columns", columns)
    assert "14 answers hold location tokens" in error
    assert "which --kind vqa reads as letters. Take --kind detect, or leave --kind out" in error


def test_images_that_lack_a_class_in_their_prefix_are_counted(check, tmp_path):
    file = roboflow_paligemma(tmp_path / "data") / "dataset" / "_annotations.train.jsonl"
    rows = [location_line(number) for number in range(8)]
    rows[0]["prefix"] = "detect red"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, shown, report = check(tmp_path / "data", "detect")
    assert found(report, "unasked") == [("warning", 1)]
    assert f"1 images are not asked about every class; they are left out. The first: {file}:1" in shown
    read_custom.cache_clear()
