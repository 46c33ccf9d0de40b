import inspect
import re
from pathlib import Path

import yaml
from PIL import Image

import openpali.data
from openpali.data.example import Box
from openpali.data.images.augment import Augment
from openpali.data.images.mirrored_text import mirrored
from openpali.data.masks.rle import mask_array, mask_box
from openpali.data.sources.builtin.drawings import concept_chars
from openpali.data.sources.builtin.phrases import LANGUAGES
from openpali.data.sources.jsonl import JsonlSource
from openpali.data.sources.refer import ReferringExpressions
from openpali.data.tasks import TASKS

PAGE = (Path(openpali.data.__file__).parents[1] / "docs" / "data.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_files_that_it_shows_can_be_read(tmp_path):
    jsonl, refs = blocks("json")
    for name in ("images/dog.png", "left.png", "right.png", "kitchen.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (80, 80)).save(tmp_path / name)
    (tmp_path / "my.jsonl").write_text(jsonl)
    (tmp_path / "refs.json").write_text(refs)
    assert len(JsonlSource(tmp_path / "my.jsonl")) == 2
    (cup,) = ReferringExpressions(tmp_path / "refs.json", split="train")[0]["objects"]
    assert mask_box(mask_array(cup["mask"])) == Box(12 / 80, 30 / 80, 52 / 80, 74 / 80)
    assert (cup["box"].x0, cup["box"].y1) == (12 / 80, 74 / 80)
    augment = yaml.safe_load(blocks("yaml")[0])["source"]["augment"]
    assert set(augment) == set(inspect.signature(Augment).parameters)


def test_what_the_page_counts_is_right():
    for text, split in [("of the 204 things", "seen"), ("50 things", "held_out")]:
        number = int(re.search(r"\d+", text)[0])
        assert text in PAGE
        assert len(concept_chars(split, number)) == number
    sides = "left links izquierda esquerda sinistra kiri 左 왼쪽"
    rewritten = [language for language in LANGUAGES if mirrored(sides, language) not in (None, sides)]
    assert len(rewritten) == 9
    assert "in nine languages" in PAGE
    assert all(f"`{name}" in PAGE or f"{name}.py" in PAGE for name in TASKS)
