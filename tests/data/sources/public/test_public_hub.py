"""Copies on the Hub, read from local folders of parquet files, as `datasets` does."""

from pathlib import Path
from typing import Any

import datasets
import pytest
from synthetic_media import save_image

from openpali.data.files.dataset_files import MissingData
from openpali.data.records import BadRecord
from openpali.data.sources import load_source

PEOPLE = [{"answer": "red", "answer_id": i} for i in range(10)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Copies that `datasets` makes of parquet files."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def shown(tmp_path: Path, number: int) -> dict[str, Any]:
    return {"bytes": save_image(tmp_path / "pictures" / f"{number}.png", number).read_bytes(), "path": f"{number}.png"}


def copy(folder: Path, images: tuple[str, ...] = ("image",), split: str = "validation", **columns: Any) -> str:
    """A copy of one split, in a file as the Hub has them."""
    (folder / "data").mkdir(parents=True)
    table = datasets.Dataset.from_dict(columns)
    for name in images:
        table = table.cast_column(name, datasets.Image())
    table.to_parquet(str(folder / "data" / f"{split}-00000-of-00001.parquet"))
    return str(folder)


@pytest.fixture
def vqav2(tmp_path):
    """Three rows, one without an image, the last one's damaged; columns called otherwise."""
    images = [shown(tmp_path, 0), None, {"bytes": b"no image", "path": "2.png"}]
    asked = ["Which colour?", "What?", "Who?"]
    return copy(tmp_path / "hub", image=images, query=asked, answers=[PEOPLE] * 3)


def test_a_copy_is_read_by_its_columns(vqav2):
    source: Any = load_source({"name": "vqav2", "hub": vqav2, "split": "validation", "columns": {"question": "query"}})
    assert len(source) == 2
    assert source.notes == ["1 left out: no image"]
    record = source[0]
    assert (record["image"].size, record["image"].mode) == ((40, 30), "RGB")
    del record["image"]
    assert record == {"id": "vqav2:0", "question": "Which colour?", "answers": ["red"] * 10}


def test_a_damaged_image_of_a_copy_is_a_bad_record(vqav2):
    source: Any = load_source({"name": "vqav2", "hub": vqav2, "split": "validation", "columns": {"question": "query"}})
    with pytest.raises(BadRecord, match="hub:2: .*not an image that can be read"):
        _ = source[1]


def test_columns_that_are_not_there_are_named_with_those_that_are(vqav2):
    spec = {"name": "vqav2", "hub": vqav2, "split": "validation"}
    with pytest.raises(MissingData, match=r"no column 'question'; there are image, query, answers.*columns: \{"):
        load_source(spec)
    with pytest.raises(MissingData, match=r"no column 'picture' for images; there are image, query"):
        load_source(spec | {"columns": {"question": "query", "image": "picture"}})


def test_splits_may_be_called_otherwise(vqav2):
    spec = {"name": "vqav2", "hub": vqav2, "split": "test", "columns": {"question": "query"}}
    with pytest.raises(MissingData, match="the split 'test' of .* cannot be read .*hub_splits"):
        load_source(spec)
    assert len(load_source(spec | {"hub_splits": {"test": "validation"}})) == 2


def test_two_columns_of_images_are_two_images(tmp_path):
    images: Any = {"left_image": [shown(tmp_path, 0)], "right_image": [shown(tmp_path, 1)]}
    path = copy(tmp_path / "hub", ("left_image", "right_image"), sentence=["Both are red."], label=[True], **images)
    source: Any = load_source({"name": "nlvr2", "hub": path, "split": "validation"})
    left, right = source[0]["images"]
    assert [left.getpixel((30, 10)), right.getpixel((30, 10))] == [(255, 0, 0), (0, 255, 0)]
    assert source[0]["answers"] == ["True"]


def test_choices_of_a_copy(tmp_path):
    columns = {"image": [shown(tmp_path, i) for i in range(2)], "question": ["What is it for?"] * 2}
    columns |= {"choices": [["to eat", "to sit"]] * 2, "correct_choice_idx": [1, 0]}
    columns |= {"direct_answers": ["['sitting', \"a child's seat\"]"] * 2, "difficult_direct_answer": [False, True]}
    path = copy(tmp_path / "hub", **columns)
    source: Any = load_source({"name": "aokvqa", "hub": path, "split": "validation"})
    assert (source[0]["correct"], source[0]["answers"]) == (1, ["sitting", "a child's seat"])
    assert len(source) == 2
    assert len(load_source({"name": "aokvqa_direct", "hub": path, "split": "validation"})) == 1


def test_kinds_of_charts_may_be_numbers(tmp_path):
    columns = {"image": [shown(tmp_path, i) for i in range(2)], "query": ["What?"] * 2, "label": [["7"], ["Peru"]]}
    path = copy(tmp_path / "hub", human_or_machine=[0, 1], **columns)
    source: Any = load_source({"name": "chartqa", "hub": path, "split": "validation"})
    assert [(source[i]["question_type"], source[i]["answers"]) for i in (0, 1)] == [
        ("human", ["7"]),
        ("augmented", ["Peru"]),
    ]


def test_scienceqa_of_a_copy_leaves_out_questions_without_a_image(tmp_path):
    columns = {"image": [None, shown(tmp_path, 1)], "question": ["Which?"] * 2, "choices": [["a", "b"]] * 2}
    path = copy(tmp_path / "hub", split="train", answer=[0, 1], hint=["", "See."], subject=["art"] * 2, **columns)
    source: Any = load_source({"name": "science_qa", "hub": path, "split": "train"})
    assert len(source) == 1
    assert (source[0]["id"], source[0]["hint"], source[0]["training"]) == ("science_qa:1", "See.", True)
