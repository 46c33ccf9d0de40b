"""A folder with a JSONL file for each split, as one source."""

import json
import shutil

import pytest
from layout_files import roboflow_paligemma

from openpali.data.records import BadRecord
from openpali.data.sources.jsonl import JsonlSource
from openpali.data.sources.jsonl_splits import jsonl_source


def test_a_folder_has_its_splits(tmp_path):
    roboflow_paligemma(tmp_path)
    dataset = tmp_path / "dataset"
    for data in (tmp_path, dataset):
        spec = jsonl_source(str(data), None)
        assert spec == {"name": "jsonl", "path": str(dataset), "image_root": None, "split": "train"}
    lengths = [len(JsonlSource(dataset, split=split)) for split in ("train", "validation", "test")]
    assert lengths == [8, 3, 3]
    (dataset / "_annotations.test.jsonl").unlink()
    assert len(JsonlSource(dataset, split="test")) == 3
    assert JsonlSource(dataset, split="test").path == dataset / "_annotations.valid.jsonl"
    (dataset / "_annotations.valid.jsonl").unlink()
    alone = str(dataset / "_annotations.train.jsonl")
    assert (
        jsonl_source(str(tmp_path), None)
        == jsonl_source(alone, None)
        == {
            "name": "jsonl",
            "path": alone,
            "image_root": None,
        }
    )


def test_splits_may_be_folders(tmp_path):
    dataset = roboflow_paligemma(tmp_path) / "dataset"
    for split, count in (("train", 8), ("valid", 3), ("test", 3)):
        (dataset / split).mkdir()
        lines = dataset / f"_annotations.{split}.jsonl"
        for line in lines.read_text().splitlines():
            image = json.loads(line)["image"]
            shutil.copy(dataset / image, dataset / split / image)
        lines.rename(dataset / split / "annotations.jsonl")
        assert len(JsonlSource(dataset / split / "annotations.jsonl")) == count
    assert jsonl_source(str(dataset), None)["split"] == "train"
    lengths = [len(JsonlSource(dataset, split=split)) for split in ("train", "validation", "test")]
    assert lengths == [8, 3, 3]
    (dataset / "train" / "more.jsonl").write_text("")
    with pytest.raises(BadRecord, match="not clear which of .*train/annotations.jsonl, train/more.jsonl.* are for"):
        JsonlSource(dataset)
    shutil.rmtree(dataset / "valid")
    shutil.rmtree(dataset / "test")
    (dataset / "train" / "more.jsonl").unlink()
    assert jsonl_source(str(dataset), None)["path"] == str(dataset / "train" / "annotations.jsonl")


def test_folders_that_are_not_clear_are_refused(tmp_path):
    with pytest.raises(
        BadRecord, match=r"holds no .jsonl file of prefixes and suffixes. For other layouts give --kind"
    ):
        JsonlSource(jsonl_source(str(tmp_path), None)["path"])
    for name in ("train", "other"):
        (tmp_path / f"{name}.jsonl").write_text("")
    with pytest.raises(BadRecord, match="it is not clear which of other.jsonl, train.jsonl are for training"):
        JsonlSource(jsonl_source(str(tmp_path), None)["path"])
    (tmp_path / "other.jsonl").rename(tmp_path / "test.jsonl")
    with pytest.raises(BadRecord, match="test.jsonl, train.jsonl are no validation split. Give the file for training"):
        JsonlSource(jsonl_source(str(tmp_path), None)["path"])
    with pytest.raises(ValueError, match="split is one of train, validation, test, not 'all'"):
        JsonlSource(tmp_path, split="all")
    with pytest.raises(BadRecord, match="there is no such folder"):
        JsonlSource(tmp_path / "train.jsonl", split="train")


def test_suffixes_that_are_boxes_are_noted_once(tmp_path):
    dataset = roboflow_paligemma(tmp_path) / "dataset"
    [note] = JsonlSource(dataset, split="train").notes
    assert "8 of 8 suffixes have location tokens, which are tokens of the model." in note
    assert JsonlSource(dataset, split="test").notes == []
