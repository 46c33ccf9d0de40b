import sys

import numpy as np
import pytest
from PIL import Image

from openpali.eval.image_encoders.heat_map import draw_heat_map, heat_rows
from openpali.eval.prompts.language_names import LANGUAGE_NAMES, language_name
from openpali.eval.scoring.recall import LanguageRecall, RetrievalTable, recall_key


def table(recalls):
    """A table in which every recall of a language is the same."""
    keys = [recall_key(name, k) for name in ("image_to_text", "text_to_image") for k in (1, 5, 10)]
    rows = {
        name: LanguageRecall(dict.fromkeys(keys, value), dict.fromkeys(keys, 0.01), dict.fromkeys(keys, 1.0), 9, 9)
        for name, value in recalls.items()
    }
    mean = sum(recalls.values()) / len(recalls)
    return RetrievalTable(rows, *(dict.fromkeys(keys, value) for value in (mean, 0.01, 1.0)))


def test_rows_are_the_mean_the_best_languages_first_and_chance():
    names, panels = heat_rows(table({"de": 0.2, "en": 0.6, "xx": 0.4}))
    assert names == ["mean", "English (en)", "xx", "German (de)", "chance"]
    for values in panels.values():
        np.testing.assert_allclose(values, np.repeat([[0.4], [0.6], [0.4], [0.2], [0.01]], 3, axis=1))


def test_directions_are_not_mixed_up():
    one = table({"en": 0.5})
    one.languages["en"].recalls["text_to_image_recall_at_10"] = 0.9
    panels = heat_rows(one)[1]
    assert panels["text_to_image"][1].tolist() == [0.5, 0.5, 0.9]
    assert panels["image_to_text"][1].tolist() == [0.5, 0.5, 0.5]


def test_image_grows_with_the_languages_and_shows_the_values(tmp_path):
    recalls = dict.fromkeys(LANGUAGE_NAMES, 0.2)
    tall = Image.open(draw_heat_map(table(recalls), tmp_path / "new" / "a.png", "Title"))
    short = Image.open(draw_heat_map(table({"en": 0.2}), tmp_path / "b.png"))
    assert tall.format == "PNG"
    assert len(recalls) == 36
    # 0.27 inches at 150 dots
    assert tall.height - short.height == pytest.approx(35 * 0.27 * 150, abs=2)
    assert tall.width == short.width
    other = Image.open(draw_heat_map(table(recalls | {"en": 0.9}), tmp_path / "c.png", "Title"))
    assert np.abs(np.asarray(other, dtype=int) - np.asarray(tall, dtype=int)).mean() > 1


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"needs matplotlib: pip install \"openpali\[eval\]\""):
        draw_heat_map(table({"en": 0.2}), tmp_path / "a.png")


def test_language_names():
    assert language_name("sw") == "Swahili (sw)"
    assert language_name("tlh") == "tlh"
