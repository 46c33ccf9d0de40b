"""Public datasets with something missing or wrong: what is said, and what is still used."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import synthetic_questions as fixtures

from openpali.data.files.config import ConfigError
from openpali.data.files.dataset_files import MissingData
from openpali.data.records import BadRecord
from openpali.data.sources import load_source
from openpali.recipes.run.datasets import make_source

SOURCES = {name: write for name, write in fixtures.MINIATURES.items() if not name.startswith("aokvqa")}
SOURCES |= {"aokvqa": fixtures.aokvqa, "countbenchqa": fixtures.countbenchqa}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Copies that `datasets` makes of parquet files."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def write(name: str, folder: Path) -> Path:
    SOURCES[name](folder)
    return folder


def load(name: str, folder: Path, **options: Any) -> Any:
    return load_source({"name": name, "path": str(folder), **options})


def change(path: Path, edit: Any) -> None:
    """Rewrite a JSON file after `edit` has changed its content."""
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("name", SOURCES)
def test_a_missing_folder_is_answered_with_what_to_download(name, tmp_path):
    with pytest.raises(MissingData) as error:
        load(name, tmp_path / "nowhere")
    text = str(error.value)
    assert f"no folder {tmp_path / 'nowhere'}" in text
    assert "Download" in text
    assert "https://" in text
    assert "so that the folder holds\n  " in text
    assert "hub:" in text


@pytest.mark.parametrize("name", SOURCES)
def test_a_folder_without_its_annotations_says_which_file_is_missing(name, tmp_path):
    with pytest.raises(MissingData, match=r"there is no \S+.* in .*Download"):
        load(name, tmp_path)


@pytest.mark.parametrize("name", [name for name in SOURCES if name not in ("countbenchqa",)])
def test_annotations_without_any_image_say_what_to_download(name, tmp_path):
    folder = write(name, tmp_path / name)
    for image in [path for path in folder.rglob("*.*") if path.suffix in (".jpg", ".jpeg", ".png", ".tif")]:
        image.unlink()
    with pytest.raises(BadRecord) as error:
        load(name, folder)
    assert "there is no image" in str(error.value)
    assert "Download" in error.value.remedy


def test_a_missing_path_is_a_mistake_of_the_configuration():
    with pytest.raises(
        ConfigError, match=r"source: path is missing: the folder of VQAv2. Download it from https://visualqa"
    ):
        make_source({"name": "vqav2", "split": "train"})


def test_an_unknown_split_names_those_there_are(tmp_path):
    folder = write("rsvqa_hr", tmp_path / "hr")
    with pytest.raises(ValueError, match=r"split: RSVQA-HR has no 'testing'; there are test, test_phili, train, val"):
        load("rsvqa_hr", folder, split="testing")
    with pytest.raises(MissingData, match="USGS_split_test_phili_answers.json"):
        load("rsvqa_hr", folder, split="test_phili")


def test_a_missing_image_costs_its_own_record_alone(tmp_path):
    folder = write("vqav2", tmp_path / "vqav2")
    (folder / "train2014" / "COCO_train2014_000000000001.jpg").unlink()
    source = load("vqav2", folder)
    assert [source[i]["id"] for i in range(len(source))] == ["vqav2:0", "vqav2:20"]
    (bad,) = source.bad
    assert (bad.record, "COCO_train2014_000000000001.jpg" in bad.reason) == ("10", True)


def test_a_damaged_image_is_a_bad_record_when_it_is_asked_for(tmp_path):
    folder = write("textvqa", tmp_path / "textvqa")
    source = load("textvqa", folder)
    (folder / "train_images" / f"{1:016x}.jpg").write_bytes(b"no image")
    with pytest.raises(BadRecord, match="textvqa:1: .*not an image that can be read"):
        _ = source[1]
    assert source[0]["image"].size == (40, 30)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "https://example.org/a.jpg"])
def test_images_are_looked_for_in_their_folder_alone(name, tmp_path):
    folder = write("tallyqa", tmp_path / "tallyqa")
    change(folder / "test.json", lambda rows: rows[0].update(image=name))
    source = load("tallyqa", folder, split="test")
    assert len(source) == 2
    assert "outside" in source.bad[0].reason or "address on the web" in source.bad[0].reason


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    folder = write("textvqa", tmp_path / "textvqa")
    shutil.move(folder / "train_images", tmp_path / "elsewhere")
    (folder / "train_images").symlink_to(tmp_path / "elsewhere")
    source = load("textvqa", folder)
    with pytest.raises(BadRecord, match="is a link out of .* image_root"):
        _ = source[0]


ODD: list[tuple[str, str, Any, str, int]] = [
    (
        "vqav2",
        "v2_OpenEnded_mscoco_train2014_questions.json",
        lambda c: c["questions"][1].pop("image_id"),
        "image_id",
        1,
    ),
    (
        "vqav2",
        "v2_OpenEnded_mscoco_train2014_questions.json",
        lambda c: c["questions"].insert(1, 5),
        "not a JSON object",
        0,
    ),
    (
        "vqav2",
        "v2_mscoco_train2014_annotations.json",
        lambda c: c["annotations"].pop(1),
        "not in that of annotations",
        1,
    ),
    (
        "vqav2",
        "v2_mscoco_train2014_annotations.json",
        lambda c: c["annotations"][1].update(answers=[]),
        "no answer",
        1,
    ),
    (
        "vqav2",
        "v2_mscoco_train2014_annotations.json",
        lambda c: c["annotations"][1].update(answers=[[1]]),
        "is not a text",
        1,
    ),
    ("textvqa", "TextVQA_0.5.1_train.json", lambda c: c["data"][1].update(question=" "), "no question", 1),
    ("textvqa", "TextVQA_0.5.1_train.json", lambda c: c["data"][1].update(question_id=0), "the same id", 1),
    (
        "aokvqa",
        "aokvqa_v1p0_train.json",
        lambda c: c[1].update(correct_choice_idx=4),
        "correct choice 4 is not one of 4",
        1,
    ),
    ("aokvqa", "aokvqa_v1p0_train.json", lambda c: c[1].update(choices="to eat"), '"choices" is str', 1),
    ("science_qa", "problems.json", lambda c: c["1"].update(answer="1"), '"answer" is str', 1),
    ("rsvqa_lr", "LR_split_train_answers.json", lambda c: c["answers"].pop(1), "not in the file of answers", 1),
    ("gqa", "train_balanced_questions.json", lambda c: c["0000001"].pop("answer"), '"answer" is missing', 1),
    ("ocrvqa", "dataset.json", lambda c: c["0000000001"]["answers"].pop(), "not lists of one length", 2),
    ("chartqa", "train/train_human.json", lambda c: c[1].update(label=7), '"label" is int', 1),
]


@pytest.mark.parametrize(("name", "file", "edit", "reason", "lost"), ODD)
def test_an_odd_entry_is_left_out_and_said(name, file, edit, reason, lost, tmp_path):
    folder = write(name, tmp_path / name)
    whole = len(load(name, folder))
    change(folder / file, edit)
    source = load(name, folder)
    assert len(source) == whole - lost
    assert len(source.bad) == 1
    assert reason in source.bad[0].reason


def test_an_odd_line_of_json_is_left_out(tmp_path):
    folder = write("nlvr2", tmp_path / "nlvr2")
    path = folder / "train.json"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], '{"sentence": ', lines[1].replace('"True"', '"maybe"'), lines[2]]))
    source = load("nlvr2", folder)
    assert len(source) == 2
    assert [(bad.record, bad.reason[:14]) for bad in source.bad] == [
        ("train.json:2", "it is not JSON"),
        ("train.json:3", "its label 'may"),
    ]


@pytest.mark.parametrize(
    ("name", "file", "content", "reason"),
    [
        ("vqav2", "v2_OpenEnded_mscoco_train2014_questions.json", {"data": []}, 'no list "questions"'),
        ("textvqa", "TextVQA_0.5.1_train.json", [1], "none of its 1 records is good"),
        ("tallyqa", "train.json", {"a": 1}, "not a JSON list"),
        ("gqa", "train_balanced_questions.json", [], "not a JSON object of questions"),
        ("science_qa", "problems.json", [], "not a JSON object of problems"),
        ("ocrvqa", "dataset.json", [], "not a JSON object of covers"),
        ("ai2d", "questions/3.png.json", [], 'no "questions"'),
        ("countbenchqa", "countbench_paired_questions.json", {}, "not a JSON list"),
    ],
)
def test_a_file_of_another_kind_is_refused(name, file, content, reason, tmp_path):
    folder = write(name, tmp_path / name)
    (folder / file).write_text(json.dumps(content))
    with pytest.raises(BadRecord, match=reason):
        load(name, folder)


def test_letters_that_are_no_boxes_are_said(tmp_path):
    folder = write("ai2d", tmp_path / "ai2d")
    files = sorted((folder / "annotations").glob("*.json"))
    for path in files[:2]:
        path.unlink()
    files[2].write_text(json.dumps({"text": {"T0": {"rectangle": [1, 2], "replacementText": "A"}}}))
    bad = [one for split in ("train", "validation", "test") for one in load("ai2d", folder, split=split).bad]
    assert sorted(one.reason.split(":")[-1].strip() for one in bad) == [
        "the text T0 has no rectangle or no replacementText",
        "there is no such file",
        "there is no such file",
    ]


def test_many_bad_entries_end_the_reading(tmp_path):
    folder = write("chartqa", tmp_path / "chartqa")
    rows = json.loads((folder / "train" / "train_human.json").read_text())
    (folder / "train" / "train_human.json").write_text(json.dumps(rows * 45 + [{}] * 20))
    with pytest.raises(BadRecord, match="20 of its 112 records are bad, more than a tenth"):
        load("chartqa", folder)
