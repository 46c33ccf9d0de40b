import multiprocessing
from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageDraw

from openpali.data.sources.builtin import drawings as module
from openpali.data.sources.builtin.backgrounds import PHOTOGRAPHS, photograph
from openpali.data.sources.builtin.drawings import (
    SMALLEST_RASTER,
    concept_chars,
    concept_names,
    default_cache_dir,
    dominant_colour,
    load_drawing,
    raster_for,
)
from openpali.data.sources.builtin.phrases import COLOURS, LANGUAGES


def everything() -> list[str]:
    table = module._table()
    return [*table["seen"].split(), *table["held_out"].split()]


def test_concepts_are_a_fixed_list_of_different_things():
    chars = everything()
    assert len(chars) == len(set(chars))
    assert len(chars) >= 250
    assert concept_chars("seen", 32) == chars[:32]
    assert not set(concept_chars("seen", 200)) & set(concept_chars("held_out", 50))
    assert [concept_names(char)["en"] for char in chars[:4]] == ["dog", "apple", "car", "tree"]
    for bad in (0, 10_000):
        with pytest.raises(ValueError, match="the seen split has 1 to"):
            concept_chars("seen", bad)
    with pytest.raises(ValueError, match="'seen' or 'held_out'"):
        concept_chars("unseen", 1)


def test_names_in_every_language_are_plain_and_unlike():
    names = [concept_names(char) for char in everything()]
    for language in LANGUAGES:
        counts = Counter(name[language] for name in names)
        assert counts.most_common(1)[0][1] == 1, (language, counts.most_common(3))
        assert not [name for name in counts if set(name) & set(":_;{}<>") or name != name.strip()]
    assert max(len(name["en"].split()) for name in names[:32]) <= 2


def test_overrides_name_real_concepts():
    table = module._table()
    for key in ("drawn_as", "names", "colours"):
        assert set(table[key]) <= set(everything()), key
    assert all(set(names) <= set(LANGUAGES) for names in table["names"].values())
    assert set(table["colours"].values()) <= {None, *COLOURS}


def test_a_drawing_fills_its_image(drawings):
    for char in concept_chars("seen", 32):
        alpha = np.asarray(load_drawing(char, drawings).image.getchannel("A")) > 100
        assert 96 <= max(alpha.shape) <= SMALLEST_RASTER
        assert alpha[0].any()
        assert alpha[-1].any()
        assert alpha[:, 0].any()
        assert alpha[:, -1].any()


@pytest.mark.parametrize(
    ("char", "colour"),
    [
        ("🍎", "red"),
        ("🍌", "yellow"),
        ("🌵", "green"),
        ("🐟", "blue"),
        ("🍆", "purple"),
        ("🐘", "gray"),
        ("🦩", "pink"),
    ],
)
def test_colours_that_anyone_would_give(char, colour, drawings):
    assert load_drawing(char, drawings).colour == colour


def test_dominant_colour_of_drawn_shapes():
    def square(inner: str, half: str | None = None) -> Image.Image:
        image = Image.new("RGBA", (40, 40))
        pen = ImageDraw.Draw(image)
        pen.rectangle((0, 0, 39, 39), fill=inner, outline="black", width=3)
        if half:
            pen.rectangle((3, 3, 36, 19), fill=half)
        return image

    for colour, name in [("#ea5a47", "red"), ("#61b2e4", "blue"), ("#fcea2b", "yellow"), ("#b1cc33", "green")]:
        assert dominant_colour(square(colour)) == name
    for colour, name in [("#ffffff", "white"), ("#9b9b9a", "gray"), ("#6a462f", "brown"), ("#000000", "black")]:
        assert dominant_colour(square(colour)) == name
    assert dominant_colour(square("#ea5a47", half="#61b2e4")) is None


def test_a_damaged_cache_file_is_drawn_again(tmp_path):
    first = np.asarray(load_drawing("🐕", tmp_path).image)
    file = next(tmp_path.rglob("*.png"))
    file.write_bytes(file.read_bytes()[:50])
    load_drawing.cache_clear()
    np.testing.assert_array_equal(np.asarray(load_drawing("🐕", tmp_path).image), first)
    assert len(file.read_bytes()) > 50
    load_drawing.cache_clear()
    np.testing.assert_array_equal(np.asarray(load_drawing("🐕", tmp_path).image), first)


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path):
    (tmp_path / "file").write_text("")
    assert load_drawing("🐕", tmp_path / "file").concept == "dog"


def _draw(folder):
    load_drawing.cache_clear()
    return [load_drawing(char, folder).image.tobytes() for char in concept_chars("seen", 8)]


def test_processes_may_fill_one_cache_at_once(tmp_path):
    with multiprocessing.get_context("fork").Pool(3) as pool:
        found = pool.map(_draw, [tmp_path] * 3, chunksize=1)
    assert found[0] == found[1] == found[2] == _draw(tmp_path)
    assert sorted(path.suffix for path in tmp_path.rglob("*") if path.is_file()) == [".png"] * 8


def test_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("OPENPALI_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "openpali"
    monkeypatch.setenv("OPENPALI_CACHE", str(tmp_path / "mine"))
    assert default_cache_dir() == tmp_path / "mine"


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_photographs_ship_with_scikit_image(name):
    image = photograph(name)
    assert image.mode == "RGB"
    assert min(image.size) >= 200
    assert np.asarray(image).std() > 5


def test_larger_images_get_larger_drawings(drawings):
    assert [raster_for(size) for size in (32, 128, 129, 224, 448)] == [128, 128, 256, 256, 512]
    small, large = (load_drawing("🐕", drawings, raster).image for raster in (128, 256))
    assert max(large.size) == pytest.approx(2 * max(small.size), abs=2)
