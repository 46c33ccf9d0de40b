"""The data.yaml of YOLO: its paths, its names, and what is refused."""

import re

import pytest
from custom_files import NAMES
from custom_records import load_custom
from layout_files import ultralytics

from openpali.data.custom.dataset import custom_spec, read_custom
from openpali.data.records import BadRecord

SPLITS = "train: images/train\nval: images/val\n"


def read(folder, text, file="data.yaml", **options):
    (folder / file).write_text(text)
    read_custom.cache_clear()
    return read_custom(custom_spec(str(folder), "detect", **options))


@pytest.mark.parametrize(
    "head",
    [
        SPLITS,
        "path: .\n" + SPLITS,
        "path: ../datasets/shapes\n" + SPLITS,
        "path: /content/datasets/shapes\n" + SPLITS,
        "path: images\ntrain: train\nval: val\ntest:\n",
        "train: ../images/train\nvalid: ../images/val\n",
        "train: [images/train]\nval: {folder}/images/val\n",
    ],
)
@pytest.mark.parametrize("names", [f"names: {NAMES}\n", "names: {0: red, '1': lime, 2: blue}\nnc: 3\n"])
def test_paths_and_names(tmp_path, head, names):
    ultralytics(tmp_path)
    found = read(tmp_path, head.replace("{folder}", str(tmp_path)) + names)
    assert {split: len(rows) for split, rows in found.good.items()} == {"train": 12, "validation": 4}
    assert found.classes == NAMES
    assert found.notes == found.mistakes == found.bad == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: images/nowhere\nnames: [a]", "data.yaml:train: there is no images/nowhere in"),
        ("val: images/val\nnames: [a]", "data.yaml:train: it names no images for training"),
        ("train: /\nnames: [a]", "data.yaml:train: / is outside"),
        ("train: ..\nnames: [a]", "data.yaml:train: .. is outside"),
        ("train: 3\nnames: [a]", "data.yaml:train: it is not a path or a list of paths"),
        (SPLITS + "names: [yes, no, maybe]", "the name of class 0 is True. Put the name into quotation marks"),
        (SPLITS + "names: [[a, b]]", "the name of class 0 is a list"),
        (SPLITS + "names: {a: 0}", "'a' is not the number of a class"),
        (SPLITS + "names: [a]\nkpt_shape: [17, 3]", "its labels are keypoints, not boxes"),
        ("train: images/train\nval: [", "data.yaml:3: it is not YAML of texts and numbers"),
        ("train: !!python/object/apply:os.system ['touch ran']", "data.yaml:1: it is not YAML of texts and numbers"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadRecord, match=re.escape(message)):
        read(ultralytics(tmp_path / "data"), text + "\n")
    assert not (tmp_path / "ran").exists()


def test_aliases_that_grow_without_end_do_not_hang(tmp_path):
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    with pytest.raises(BadRecord, match="data.yaml:names"):
        read(ultralytics(tmp_path), "\n".join(lines) + f"\n{SPLITS}names: [*a29]\n")


def test_a_missing_split_is_noted_and_a_wrong_count_is_a_mistake(tmp_path):
    found = read(ultralytics(tmp_path), f"{SPLITS}test: ../test/images\nnames: {NAMES}\nnc: 4\n")
    assert found.notes == [f"{tmp_path / 'data.yaml'}:test: there is no ../test/images; this split is left out"]
    assert found.mistakes == [f"{tmp_path / 'data.yaml'}:nc: it says 4 classes, and names has 3. Correct one of them."]


def test_paths_outside_are_read_below_an_image_root(tmp_path):
    ultralytics(tmp_path)
    (tmp_path / "config").mkdir()
    text = f"path: ..\n{SPLITS}names: {NAMES}\n"
    with pytest.raises(BadRecord, match="images/train is outside .*config. Move it there, or give an --image_root"):
        read(tmp_path / "config", text)
    found = read(tmp_path / "config", text, image_root=str(tmp_path))
    assert {split: len(rows) for split, rows in found.good.items()} == {"train": 12, "validation": 4}


def test_other_names_of_the_file(tmp_path):
    ultralytics(tmp_path)
    text = (tmp_path / "data.yaml").read_text()
    (tmp_path / "data.yaml").unlink()
    (tmp_path / "hyp.yaml").write_text("lr0: 0.01\n")
    assert len(read(tmp_path, text, "coco8.yaml").good["train"]) == 12
    (tmp_path / "other.yml").write_text(text)
    with pytest.raises(BadRecord, match="it is not clear which of coco8.yaml, other.yml describes the data"):
        load_custom(tmp_path, "detect")
    assert len(load_custom(tmp_path / "other.yml", "detect")) == 12


def test_other_kinds_are_refused(tmp_path):
    with pytest.raises(BadRecord, match="YOLO has boxes and polygons, and nothing for caption. Take --kind detect"):
        load_custom(ultralytics(tmp_path) / "data.yaml", "caption")
    with pytest.raises(BadRecord, match="holds nothing for caption, but boxes of YOLO"):
        load_custom(tmp_path, "caption")
