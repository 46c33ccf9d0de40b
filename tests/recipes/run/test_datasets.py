import json

import pytest
from PIL import Image

from openpali.data.files.config import ConfigError
from openpali.data.mixture import TaskDataset
from openpali.data.sources import Augmented
from openpali.data.tasks import load_task
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.run.datasets import load_splits, skip_log
from openpali.recipes.run.long_texts import report_long_texts

EMOJI = {"name": "emoji", "split": "train", "size": 64, "length": 10}


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run").mkdir()
    return RunArguments(output_dir=str(tmp_path / "run"), use_cpu=True)


@pytest.fixture
def coco(tmp_path):
    """Twenty images with a box each; the box of the last is empty."""
    Image.new("RGB", (30, 20), "red").save(tmp_path / "a.png")
    images = [{"id": n, "file_name": "a.png", "width": 30, "height": 20} for n in range(20)]
    boxes = [[5, 5, 10, 10 if n < 19 else 0] for n in range(20)]
    annotations = [{"id": n, "image_id": n, "category_id": 1, "bbox": boxes[n]} for n in range(20)]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cup"}]}
    (tmp_path / "coco.json").write_text(json.dumps(content))
    return {"name": "coco", "path": str(tmp_path / "coco.json")}


def test_only_the_train_part_is_augmented(run):
    parts = load_splits(EMOJI | {"augment": {"flip": 1.0, "zoom_out": [2, 2]}}, run)
    plain = load_splits(EMOJI, run)
    assert isinstance(parts["train"], Augmented)
    assert not isinstance(plain["train"], Augmented)
    for name in ("validation", "test"):
        assert parts[name][3]["image"].tobytes() == plain[name][3]["image"].tobytes()
    task = load_task({"name": "detect"})
    assert TaskDataset(parts["train"], task)[0].images[0].size == (128, 128)
    assert TaskDataset(plain["train"], task)[0].images[0].size == (64, 64)


def test_parts_of_a_file_are_augmented_and_its_bad_records_told(run, coco, capsys):
    parts = load_splits(coco | {"augment": {"zoom_out": [2, 2]}}, run)
    assert parts["train"][0]["image"].size == (60, 40)
    assert parts["validation"][0]["image"].size == (30, 20)
    assert (len(parts["train"]), len(parts["validation"])) == (16, 3)
    shown = capsys.readouterr().out
    assert "coco.json: 1 of 20 records cannot be used and are skipped:" in shown
    assert "coco.json:annotation 19: its bbox [5, 5, 10, 0] is empty." in shown
    assert [row["record"] for row in skip_log(run).read()] == ["annotation 19"]


def test_parts_of_the_built_in_images_are_told_anew(run):
    spec = {key: value for key, value in EMOJI.items() if key != "split"} | {"objects": [1, 1]}
    parts = load_splits(spec | {"augment": {"flip": 1.0}}, run)
    mirror = {"left": "right", "right": "left"}
    for index in range(8):
        (before,), (after,) = (source[index]["objects"] for source in (parts["train"].source, parts["train"]))
        words = [mirror.get(word, word) for word in before["position"].split()]
        assert after["position"] == " ".join(words)


def test_mistakes_are_configuration_errors(run, coco):
    for spec in (EMOJI, coco):
        with pytest.raises(ConfigError, match="source: augment has no option 'flop'. Did you mean 'flip'?"):
            load_splits(spec | {"augment": {"flop": 1}}, run)


def test_long_texts_are_told_by_part(run, tmp_path, capsys, tiny_tokenizer):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    rows = [{"image": "a.png", "prefix": "what?", "suffix": "a dog"} for _ in range(20)]
    path = tmp_path / "my.jsonl"

    def report(change):
        path.write_text("".join(json.dumps(row | change(number)) + "\n" for number, row in enumerate(rows)))
        parts = load_splits({"name": "jsonl", "path": str(path)}, run)
        task = load_task({"name": "plain", "max_new_tokens": 12})
        data = {name: TaskDataset(part, task) for name, part in parts.items()}
        capsys.readouterr()
        limits = {"max_length": 12, "suffix_max_length": 30}
        return report_long_texts(data, tiny_tokenizer, **limits, run=run), capsys.readouterr().out

    nothing = {"prefix": 0, "suffix": 0}
    assert report(lambda number: {}) == ({"train": nothing, "validation": nothing}, "")
    # of 20 records 4 are set aside; answers of 20 tokens fit in training, and are cut where they are generated
    counts, shown = report(lambda number: {"suffix": "xyz " * 5})
    assert counts == {"train": nothing, "validation": {"prefix": 0, "suffix": 4}}
    assert "validation: 0 prefixes and 4 suffixes are longer than the limit" in shown
    assert "is cut to task.max_new_tokens=12" in shown
    counts, shown = report(lambda number: {"suffix": "xyz " * 20, "prefix": "xyz " * 20})
    assert counts["train"] == {"prefix": 16, "suffix": 16}
    assert "cut to suffix_max_length=30" in shown


def test_questions_of_one_conversation_are_in_one_part(run, tmp_path):
    turns = [
        ("human", "what?"),
        ("gpt", "a dog"),
        ("human", "which?"),
        ("gpt", "red"),
        ("human", "why?"),
        ("gpt", "x"),
    ]
    talk = [{"from": who, "value": text} for who, text in turns]
    for number in range(20):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
    rows = [{"image": f"{number}.png", "conversations": talk} for number in range(20)]
    path = tmp_path / "my.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    parts = load_splits({"name": "jsonl", "path": str(path)}, run)
    shown = [{parts[name][index]["image"].getpixel((0, 0)) for index in range(len(parts[name]))} for name in parts]
    assert not shown[0] & shown[1]
    assert len(parts["train"]) + len(parts["validation"]) == 60
