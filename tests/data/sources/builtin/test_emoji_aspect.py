"""Wide and tall built-in scenes."""

import math

import numpy as np
import pytest

from openpali.data.sources.builtin.emoji import EmojiScenes
from openpali.data.sources.builtin.placement import grid_position, mask_box


@pytest.fixture(scope="module")
def scenes(drawings):
    source = EmojiScenes(objects=(1, 4), length=80, cache_dir=drawings, words=True, size=96, aspect=(1 / 3, 3))
    return [source[index] for index in range(len(source))]


def test_shapes_are_drawn_evenly_and_have_one_area(scenes):
    ratios = [math.log(record["image"].width / record["image"].height) for record in scenes]
    assert min(ratios) < -math.log(2.5)
    assert max(ratios) > math.log(2.5)
    assert abs(np.mean(ratios)) < 0.2
    for record in scenes:
        assert math.prod(record["image"].size) == pytest.approx(96 * 96, rel=0.02)


def test_masks_and_boxes_fit_the_image(scenes):
    for record in scenes:
        assert 1 <= len(record["objects"]) <= 4
        for item in record["objects"]:
            assert item["mask"].shape == record["image"].size[::-1]
            box = mask_box(item["mask"], item["concept"])
            assert (box, item["position"]) == (item["box"], grid_position(box))
            # drawings keep their shape: none is as stretched as its image may be
            height, width = (np.ptp(np.flatnonzero(item["mask"].any(axis))) + 1 for axis in (1, 0))
            assert 0.3 < width / height < 3.4
        assert sum(item["mask"].astype(int) for item in record["objects"]).max() == 1
        assert record["words"]


def test_objects_reach_all_parts_of_a_wide_scene(drawings):
    source = EmojiScenes(objects=(1, 1), length=60, cache_dir=drawings, aspect=(3, 3))
    places = {source[index]["objects"][0]["position"] for index in range(60)}
    assert {"left", "center", "right"} <= places
    assert {source[index]["image"].size for index in range(60)} == {(111, 37)}


def test_a_ratio_is_a_part_of_the_id_and_none_leaves_it_as_it_was(drawings):
    square, wide = (EmojiScenes(length=2, cache_dir=drawings, aspect=aspect) for aspect in (None, (2, 3)))
    assert square[0]["id"] != wide[0]["id"]
    assert square[0]["image"].size == (64, 64)
    again = EmojiScenes(length=2, cache_dir=drawings, aspect=(2, 3))
    assert again[1]["image"].tobytes() == wide[1]["image"].tobytes()


def test_mistakes():
    for aspect in ((3, 1), (0, 1), (1,)):
        with pytest.raises(ValueError, match="give the smallest and the largest ratio"):
            EmojiScenes(aspect=aspect)
    with pytest.raises(ValueError, match="scenes would be 18 pixels narrow, and need 32"):
        EmojiScenes(size=32, aspect=(1 / 3, 1))
