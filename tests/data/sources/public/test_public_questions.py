"""Public datasets of questions: every layout gives the records that its fixture holds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic_questions as fixtures

from openpali.data.files.dataset_files import PackedRows
from openpali.data.sources import CheckedSource, load_source
from openpali.data.sources.public.rsvqa import number_range

RED = ["red"] * 7 + ["nothing"] * 3
SITTING = {"answers": ["sitting"] * 6 + ["rest"] * 4, "choices": ["to eat", "to sit", "to see", "to ride"]}
DIAGRAM = {"question": "What is on the left?", "choices": ["sun", "moon", "leaf", "root"]}
# of each source: numbers of records to train, validate and test on, and what the first one to test on holds
EXPECTED: dict[str, tuple[Callable[[Path], dict[str, Any]], tuple[int, int, int], dict[str, Any]]] = {
    "vqav2": (fixtures.vqav2, (3, 3, 3), {"id": "vqav2:400", "answers": RED, "question_type": "other"}),
    "okvqa": (fixtures.okvqa, (3, 3, 3), {"answers": RED, "question_type": "Vehicles and Transportation"}),
    "textvqa": (fixtures.textvqa, (3, 3, 3), {"answers": ["nokia"] * 8 + ["Nokia", "phone"]}),
    "vizwizvqa": (
        fixtures.vizwizvqa,
        (3, 3, 3),
        {"answers": ["unanswerable"] * 7 + ["a can"] * 2, "question_type": "unanswerable"},
    ),
    "aokvqa": (fixtures.aokvqa, (4, 4, 4), {"id": "aokvqa:q40", "correct": 0} | SITTING),
    "aokvqa_direct": (fixtures.aokvqa, (4, 3, 3), {"question": "What is it for?"} | SITTING),
    "gqa": (fixtures.gqa, (3, 3, 3), {"id": "gqa:0000080", "answers": ["yes"], "question_type": "verify"}),
    "nlvr2": (fixtures.nlvr2, (3, 3, 3), {"question": "Both are red.", "answers": ["False"]}),
    "ai2d": (fixtures.ai2d, (6, 6, 6), {"answers": ["sun"], "correct": 0} | DIAGRAM),
    "science_qa": (
        fixtures.science_qa,
        (3, 3, 3),
        {"choices": ["milk", "stone", "air"], "correct": 2, "question_type": "natural science", "training": False},
    ),
    "rsvqa_lr": (fixtures.rsvqa_lr, (3, 3, 3), {"answers": ["yes"], "question_type": "presence"}),
    "rsvqa_hr": (fixtures.rsvqa_hr, (3, 3, 3), {"answers": ["yes"], "question_type": "presence"}),
    "chartqa": (fixtures.chartqa, (4, 4, 4), {"answers": ["12.5"], "question_type": "human"}),
    "tallyqa": (fixtures.tallyqa, (3, 3, 3), {"answers": ["2"], "question_type": "simple"}),
    "countbenchqa": (fixtures.countbenchqa, (3, 3, 3), {"answers": ["2"]}),
    "ocrvqa": (fixtures.ocrvqa, (6, 6, 6), {"id": "ocrvqa:0000000006-0", "answers": ["Lem, Stanislaw"]}),
    "docvqa": (fixtures.docvqa, (3, 3, 3), {"id": "docvqa:40", "answers": ["May 1, 1998", "May 1"]}),
    "infovqa": (fixtures.infovqa, (3, 3, 3), {"answers": ["Rome, Oslo", "Oslo, Rome"]}),
    "stvqa": (fixtures.stvqa, (3, 2, 2), {"answers": ["STOP", "stop sign"]}),
    "pope": (fixtures.pope, (6, 6, 6), {"answers": ["yes"], "question_type": "random"}),
}
SPLITS = ("train", "validation", "test")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Copies that `datasets` makes of parquet files."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize("name", EXPECTED)
def test_a_layout_gives_its_records(name, tmp_path):
    write, counts, first = EXPECTED[name]
    options = write(tmp_path / name)
    sources = {split: load_source({"name": name, "split": split, **options}) for split in SPLITS}
    assert tuple(map(len, sources.values())) == counts
    for source in sources.values():
        assert isinstance(source, CheckedSource)
        assert source.bad == []
        records = [source[i] for i in range(len(source))]
        assert len({record["id"] for record in records}) == len(records)
        for record in records:
            shown = record["images"] if "images" in record else [record["image"]]
            assert [(image.mode, image.size) for image in shown] == [("RGB", (40, 30))] * len(shown)
            assert record["question"]
            assert any(record["answers"])
    found = sources["test"][0]
    assert found["id"].startswith(f"{name}:")
    assert {key: found[key] for key in first} == first


def loaded(name: str, folder: Path, **options: Any) -> Any:
    """A source on its fixture in a folder that may be there already."""
    given = {"path": str(folder)} if folder.exists() else EXPECTED[name][0](folder)
    return load_source({"name": name, **given, **options})


def test_two_images_are_left_and_right(tmp_path):
    source = loaded("nlvr2", tmp_path / "nlvr2", split="train")
    left, right = source[0]["images"]
    assert left.getpixel((30, 10)) == (255, 0, 0)  # the first two colours of the generated images
    assert right.getpixel((30, 10)) == (0, 255, 0)


@pytest.mark.parametrize("name", ["ai2d", "tallyqa", "stvqa"])
def test_images_held_out_are_not_trained_on(name, tmp_path):
    sources = [loaded(name, tmp_path / name, split=split) for split in SPLITS[:2]]
    shown = [{source._rows[i][1]["images"][0] for i in range(len(source))} for source in sources]
    assert shown[0]
    assert shown[1]
    assert not shown[0] & shown[1]


def test_translated_questions_have_their_language_as_type(tmp_path):
    source = loaded("gqa", tmp_path / "gqa", split="test", languages=["de", "zh"])
    found = [(source[i]["question"], source[i]["question_type"], source[i]["answers"]) for i in (0, 3)]
    assert found == [("Ist es rot?", "de", ["yes"]), ("是红色的吗?", "zh", ["yes"])]
    assert len(source) == 6
    marvl = loaded("nlvr2", tmp_path / "nlvr2", split="test", languages="id")
    assert (len(marvl), marvl[0]["question_type"], marvl[0]["answers"]) == (1, "id", ["True"])
    assert len(marvl[0]["images"]) == 2
    with pytest.raises(ValueError, match="MaRVL has no 'de'; there are id, sw"):
        loaded("nlvr2", tmp_path / "nlvr2", languages=["de"])


def test_notes_say_what_is_left_out_by_design(tmp_path):
    assert loaded("science_qa", tmp_path / "science_qa").notes == ["1 left out: no image"]
    assert "numbers: true includes them" in loaded("rsvqa_lr", tmp_path / "rsvqa").notes[0]
    hard = loaded("aokvqa_direct", tmp_path / "aokvqa", split="validation")
    assert hard.notes == ["1 left out: too difficult without choices, so not scored"]


@pytest.mark.parametrize(
    ("name", "answer"), [("rsvqa_lr", "between 11 and 100"), ("rsvqa_hr", "between 11 m2 and 100 m2")]
)
def test_numbers_of_rsvqa_are_ranges(name, answer, tmp_path):
    source = loaded(name, tmp_path / name, split="test", numbers=True)
    assert len(source) == 4
    assert source[3]["answers"] == [answer]


def test_ranges_are_cut_as_published():
    counts = [number_range(str(count), "") for count in (0, 1, 10, 11, 100, 101, 1000, 1001)]
    low, middle, high = "between 1 and 10", "between 11 and 100", "between 101 and 1000"
    assert counts == ["0", low, low, middle, middle, high, high, "more than 1000"]
    assert [number_range(f"{area}m2", " m2") for area in (0, 5000)] == ["0 m2", "more than 1000 m2"]


def test_letters_replace_the_words_of_a_diagram(tmp_path):
    source = loaded("ai2d", tmp_path / "ai2d", split="test")
    plain, lettered = np.array(source[0]["image"]), np.array(source[1]["image"])
    box = np.zeros(plain.shape[:2], bool)
    box[4:17, 4:21] = True
    assert (plain[~box] == lettered[~box]).all()
    shades = lettered[box]
    assert (shades == 255).all(axis=1).mean() > 0.4
    assert (shades < 100).all(axis=1).any()
    assert "letters" not in source[1]


def test_every_order_of_a_list_counts_only_where_it_is_scored(tmp_path):
    assert loaded("infovqa", tmp_path / "infovqa", split="train")[0]["answers"] == ["Rome, Oslo"]


def test_charts_come_from_people_and_machines_in_the_numbers_that_there_are(tmp_path):
    source = loaded("chartqa", tmp_path / "chartqa", split="train")
    assert [source[i]["question_type"] for i in range(4)] == ["human", "human", "augmented", "augmented"]


def test_pope_asks_the_same_in_every_split(tmp_path):
    questions = [[loaded("pope", tmp_path / "pope", split=split)[i]["answers"] for i in range(6)] for split in SPLITS]
    assert questions[0] == questions[1] == questions[2] == [["yes"], ["no"]] * 3


def test_images_may_lie_in_another_folder(tmp_path):
    loaded("vqav2", tmp_path / "vqav2")
    (tmp_path / "coco").mkdir()
    for part in ("train2014", "val2014"):
        (tmp_path / "vqav2" / part).rename(tmp_path / "coco" / part)
    assert len(loaded("vqav2", tmp_path / "vqav2", image_root=str(tmp_path / "coco"))) == 3


def test_rows_are_kept_as_they_are_in_few_bytes():
    rows = PackedRows()
    written = [{"question": f"wie groß? {i} \ud800 是", "answers": ["ja"] * 10, "at": i} for i in range(1000)]
    for row in written:
        rows.append(row)
    assert len(rows) == 1000
    assert [rows[i] for i in (0, 1, 999)] == [written[0], written[1], written[999]]
    assert len(rows._bytes) < 130 * 1000
