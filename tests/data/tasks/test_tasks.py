import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openpali.data import tasks as package
from openpali.data.example import Box
from openpali.data.mixture import show
from openpali.data.sources.builtin.emoji import EmojiScenes
from openpali.data.sources.builtin.phrases import KINDS, LANGUAGES, colour_word, phrases, plural, position_word
from openpali.data.tasks import TASKS, load_task
from openpali.modeling.location_tokens import parse_detections

METRICS = Path(package.__file__).parents[2] / "eval" / "metrics"
# what custom data and public datasets say of an image
TOLD = {
    "prefix": "a",
    "suffix": "b",
    "question": "Which?",
    "answers": ["a dog"],
    "choices": ["a", "dog"],
    "correct": 1,
}


@pytest.fixture(scope="module")
def records(drawings):
    source = EmojiScenes(objects=(1, 4), length=150, words=True, size=96, cache_dir=drawings)
    return [source[index] for index in range(150)]


def default(name, codec):
    """The task as it is by default; it has a codec, where it needs one."""
    return load_task({"name": name} | ({"codec": codec} if name in ("segment", "refer") else {}))


def examples(task, records):
    found = [task.example(record, random.Random(f"0-{n}")) for n, record in enumerate(records)]
    return [(record, example) for record, example in zip(records, found) if example is not None]


@pytest.mark.parametrize("name", TASKS)
def test_what_every_task_must_do(name, records, codec):
    task = default(name, codec)
    assert (METRICS / task.metric).is_dir()
    assert task.max_new_tokens > 0
    made = [record | TOLD for record in records]
    found = examples(task, made)
    assert len(found) >= 10
    for record, example in found:
        assert example.id == record["id"]
        assert example.task == name
        assert example.prefix
        assert example.suffix
        assert example.suffix in example.references
        assert len(example.images) == 1
        assert (example.images[0] is record["image"]) == (name != "red_box")
        json.dumps(example.meta)
    again = examples(task, made)
    assert [example for _, example in found] == [example for _, example in again]


@pytest.mark.parametrize("name", TASKS)
def test_the_target_scores_full_marks_in_the_tasks_own_metric(name, records, codec):
    import evaluate

    task = default(name, codec)
    found = [e for _, e in examples(task, [record | TOLD for record in records])][:20]
    right = [task.prediction(example.suffix, example) for example in found]
    wrong = [task.prediction("zzz", example) for example in found]
    references = [task.reference(example) for example in found]
    options = {"tokenizer": "plain"} if task.metric == "cider" else {}
    metric = evaluate.load(str(METRICS / task.metric))
    best = metric.compute(predictions=right, references=references, **options)
    worst = metric.compute(predictions=wrong, references=references, **options)
    # the masks of an untrained codec are not those that it was given
    assert best["box_accuracy_75" if task.metric == "segmentation" else task.metric_key] > 0.95
    assert worst[task.metric_key] < 0.05


def truth(record, kind, language, prefix):
    """The right answer, found from the record by other means than the task's."""
    objects = record["objects"]
    names = [item["names"][language] for item in objects]
    if kind == "what":
        if len(objects) == 1:
            return names[0]
        words = {position_word(item["position"], language): name for item, name in zip(objects, names)}
        return words[max((word for word in words if f" {word}?" in prefix), key=len)]
    if kind == "count":
        return str(sum(f" {plural(name)} " in prefix for name in names))
    if kind == "presence":
        return "yes" if any(prefix.endswith(f" of {name}?") for name in names) else "no"
    item = next(item for item, name in zip(objects, names) if prefix.endswith(f" the {name}?"))
    return colour_word(item["colour"], language) if kind == "colour" else item["position"]


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_true(kind, records):
    found = examples(load_task({"name": "answer", "kinds": [kind]}), records)
    assert len(found) > 80
    for record, example in found:
        assert example.prefix.startswith("answer en ")
        assert example.suffix == truth(record, kind, "en", example.prefix), example.prefix
    if kind == "what":
        assert {len(r["objects"]) == 1 for r, _ in found} == {True, False}
        for record, example in found:
            assert ("what is this?" in example.prefix) == (len(record["objects"]) == 1)
    if kind == "count":
        assert {"0", "1", "2", "3"} <= {example.suffix for _, example in found}
    if kind == "presence":
        assert 0.35 < np.mean([example.suffix == "yes" for _, example in found]) < 0.65


def test_boxes_of_an_answer_are_what_it_speaks_of(records):
    for record, example in examples(load_task({"name": "answer", "kinds": ["count"]}), records):
        assert len(example.boxes) == int(example.suffix)
        assert set(example.boxes) <= {item["box"] for item in record["objects"]}


def test_every_language_and_kind_is_asked(records):
    task = load_task({"name": "answer", "languages": list(LANGUAGES)})
    found = [example for _, example in examples(task, records * 3)]
    assert {example.meta["language"] for example in found} == set(LANGUAGES)
    assert {example.meta["kind"] for example in found} == set(KINDS)
    for example in found:
        assert example.prefix.startswith(f"answer {example.meta['language']} ")
        if example.meta["kind"] == "presence":
            assert example.suffix in phrases(example.meta["language"])["yes_no"]


def test_one_language_or_kind_may_be_given_as_text():
    task = load_task({"name": "answer", "kinds": "count", "languages": "de"})
    assert (task.kinds, task.languages, task.metric) == (("count",), ("de",), "count_accuracy")
    assert load_task({"name": "answer"}).metric == "exact_match"
    assert load_task({"name": "caption", "languages": "de"}).languages == ("de",)


def test_captions_count_what_is_there(records):
    for record, example in examples(load_task({"name": "caption"}), records):
        assert example.prefix == "caption en"
        names = [item["concept"] for item in record["objects"]]
        for name in set(names):
            assert (name if names.count(name) == 1 else plural(name)) in example.suffix
        assert len(example.suffix.replace(" and ", ", ").split(", ")) == len(set(names))


def test_captions_of_other_sources_may_be_several():
    image = Image.new("RGB", (8, 8))
    record = {"id": "1", "image": image, "captions": {"en": ["a dog", "one dog"], "de": "ein hund"}}
    example = load_task({"name": "caption"}).example(record, random.Random(0))
    assert example.references == ("a dog", "one dog")
    assert load_task({"name": "caption", "languages": ["fr"]}).example(record, random.Random(0)) is None


def test_detections_are_the_boxes_to_half_a_bin(records):
    task = load_task({"name": "detect", "most_things": 2})
    found = examples(task, records)
    assert any(" ; " in example.prefix for _, example in found)
    for record, example in found:
        things = example.prefix.removeprefix("detect ").split(" ; ")
        expected = [item["box"] for item in record["objects"] if item["concept"] in things]
        assert list(example.boxes) == expected
        read = parse_detections(example.suffix)
        assert read.rejected == []
        for box, true in zip(read.boxes, expected, strict=True):
            assert (box.x1, box.y1, box.x2, box.y2) == pytest.approx((true.x0, true.y0, true.x1, true.y1), abs=5e-4)
            assert box.label == true.label


def test_parsed_boxes_for_the_metric():
    task = load_task({"name": "detect"})
    text = "<loc0000><loc0512><loc1023><loc1023> dog ; rubbish"
    assert task.prediction(text, None) == [{"box": [512 / 1023, 0.0, 1.0, 1.0], "label": "dog"}]


def test_words_are_read_in_order(records):
    for record, example in examples(load_task({"name": "ocr"}), records):
        assert example.prefix == "ocr"
        assert example.suffix.split() == [word["text"] for word in record["words"]]
    assert load_task({"name": "ocr"}).example({"id": "1", "words": []}, random.Random(0)) is None


def test_plain_takes_records_as_they_are():
    a, b = Image.new("RGB", (8, 8)), Image.new("RGB", (9, 9))
    record = {"id": "1", "images": [a, b], "prefix": "p", "suffix": "s", "references": ["s", "t"]}
    example = load_task({"name": "plain"}).example(record, random.Random(0))
    assert (example.images, example.prefix, example.suffix, example.references) == ((a, b), "p", "s", ("s", "t"))


def test_the_task_to_copy_names_the_largest_thing(records):
    for record, example in examples(load_task({"name": "forkme"}), records):
        areas = {
            item["box"]: (item["box"].x1 - item["box"].x0) * (item["box"].y1 - item["box"].y0)
            for item in record["objects"]
        }
        assert example.suffix == max(areas, key=areas.__getitem__).label
    one = {"id": "1", "objects": [{"concept": "dog", "box": Box(0, 0, 1, 1)}]}
    assert load_task({"name": "forkme"}).example(one, random.Random(0)) is None


def test_a_copied_task_works_as_its_first_lines_say(monkeypatch, tmp_path, capsys, drawings):
    """Follow the steps at the top of forkme.py: copy, rename, add a line to the table, look at it."""
    text = (Path(package.__file__).parent / "forkme.py").read_text("utf-8")
    (tmp_path / "mytask.py").write_text(text.replace("ForkMe", "MyTask").replace('"forkme"', '"mytask"'))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(TASKS, "mytask", "mytask:MyTask")
    monkeypatch.setenv("OPENPALI_CACHE", str(drawings))
    show({"name": "mytask"}, count=5)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(set(lines)) == 5
    assert all("'answer en what is the largest thing?' -> " in line for line in lines)
