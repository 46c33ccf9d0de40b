"""Datasets for evaluation alone: every layout gives the records that its miniature holds, and mistakes are named."""

import pytest
import synthetic_evaluation as fixtures
from synthetic_media import save_image, write_lines, write_text

from openpali.data.files.dataset_files import MissingData
from openpali.data.mixture import TaskDataset
from openpali.data.records import BadRecord
from openpali.data.sources import load_source
from openpali.data.sources.public.evaluation.views import QUESTIONS
from openpali.data.tasks import load_task


def records(name, **options):
    source = load_source({"name": name, "split": "test", **options})
    return [source[index] for index in range(len(source))], source


def test_questions_one_and_two_are_a_pair(tmp_path):
    found, source = records("mmvp", **fixtures.mmvp(tmp_path))
    assert source.bad == []
    assert [one["question_type"] for one in found] == ["pair 1", "pair 1", "pair 2", "pair 2", "pair 3", "pair 3"]
    assert [one["correct"] for one in found] == [0, 1] * 3
    assert found[0]["choices"] == ["Red", "Blue"]
    assert found[5]["choices"] == ["Near, in front", "Far"]
    assert found[5]["answers"] == ["Far"]
    assert found[0]["id"] == "mmvp:1"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["Index,Question"], "its columns are Index, Question, not Index, Question, Options, Correct Answer"),
        (["Index,Question,Options,Correct Answer", "1,Is it?,(a) Yes (b) No,(c)"], "its options are (a), (b)"),
        (["Index,Question,Options,Correct Answer", "one,Is it?,(a) Yes (b) No,(a)"], "'one' is not a number from 1"),
    ],
)
def test_what_is_wrong_with_a_table_of_pairs_is_said(tmp_path, lines, message):
    save_image(tmp_path / "MMVP Images" / "1.jpg", 0)
    write_text(tmp_path / "Questions.csv", *lines)
    with pytest.raises(BadRecord) as error:
        records("mmvp", path=str(tmp_path))
    assert message in str(error.value)


def test_every_view_is_asked_four_questions(tmp_path):
    found, _ = records("objaverse_multiview", **fixtures.objaverse(tmp_path))
    assert len(found) == 2 * 3 * len(QUESTIONS)
    assert [one["question"] for one in found[:4]] == list(QUESTIONS)
    assert found[0]["id"] == "objaverse_multiview:uid0-0-0"
    assert (found[0]["answers"], found[0]["question_type"]) == (["banana"], "uid0")
    assert found[-1]["answers"] == ["bow (weapon)", "bow"]
    few, _ = records("objaverse_multiview", path=str(tmp_path), questions="What is this?")
    assert len(few) == 6


def test_a_line_that_is_no_object_is_left_out(tmp_path):
    fixtures.objaverse(tmp_path)
    lines = (tmp_path / "objects.jsonl").read_text()
    write_lines(tmp_path / "more.jsonl", [{"id": "c", "category": 3, "views": ["views/0/0.png"]}, {"id": "d"}])
    (tmp_path / "objects.jsonl").write_text(lines + (tmp_path / "more.jsonl").read_text())
    found, source = records("objaverse_multiview", path=str(tmp_path), questions="What is this?")
    assert len(found) == 6
    assert [bad.record for bad in source.bad] == ["c-0-0", "line 4"]


def test_an_image_of_exactly_one_person_has_the_labels_of_the_person(tmp_path):
    found, source = records("miap", **fixtures.miap(tmp_path))
    assert len(found) == 12
    assert source.notes == ["1 left out: several people"]
    assert found[0]["groups"] == {"age": "Young", "gender": "Predominantly Feminine"}
    assert found[3]["groups"] == {"age": "Older", "gender": "Predominantly Masculine"}
    assert {"yes", "person", "woman"} <= set(found[0]["answers"])


def test_faces_have_three_labels_and_any_question(tmp_path):
    found, _ = records("fairface", **fixtures.fairface(tmp_path), question="Is there a person?", answers="yes")
    assert found[0]["groups"] == {"age": "20-29", "gender": "Female", "race": "A"}
    assert (found[0]["question"], found[0]["answers"]) == ("Is there a person?", ["yes"])
    with pytest.raises(MissingData, match="fairface_label_train.csv, fairface_label_val.csv"):
        records("fairface", path=str(tmp_path / "nowhere"))


def test_other_columns_of_a_table_are_labels(tmp_path):
    found, _ = records("labelled", **fixtures.labelled(tmp_path))
    assert (found[0]["groups"], found[1]["groups"]) == ({"colour": "warm"}, {"colour": "cold", "size": "large"})
    assert (found[0]["question"], found[0]["answers"]) == ("answer en what is this?", ["dog"])
    chosen, _ = records("labelled", path=str(tmp_path / "labels.csv"), labels="size")
    assert [one.get("groups") for one in chosen[:2]] == [{}, {"size": "large"}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,age\na.png,1\n", "labels.csv:1: it has no column 'image'; it has file, age. Give image: COLUMN"),
        ("image,age\na.png,1,2\n", "labels.csv:2: it has more fields than the first line"),
        ("image,age\na.png\n", "labels.csv:2: it has fewer fields than the first line"),
        ("image,age,question\na.png,1,\n", "labels.csv:2: it has no question"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(tmp_path, text, message):
    save_image(tmp_path / "a.png", 0)
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(BadRecord) as error:
        records("labelled", path=str(tmp_path / "labels.csv"))
    assert message in str(error.value)


def test_labels_reach_the_examples_of_any_task(tmp_path, write_jsonl):
    fixtures.miap(tmp_path)
    source = load_source({"name": "miap", "path": str(tmp_path), "split": "test"})
    example = TaskDataset(source, load_task({"name": "vqa", "prompt": "{question}"}))[1]
    assert example.meta["groups"] == {"age": "Young", "gender": "Predominantly Masculine"}
    line = {"image": "good.png", "prefix": "", "suffix": "a", "groups": {"age": 30}}
    lines = load_source({"name": "jsonl", "path": write_jsonl([line])})
    assert TaskDataset(lines, load_task({"name": "plain"}))[0].meta["groups"] == {"age": 30}
    with pytest.raises(BadRecord, match='"groups" is not a mapping of labels. Give it as {"age": "old"}'):
        load_source({"name": "jsonl", "path": write_jsonl([line | {"groups": "old"}])})
