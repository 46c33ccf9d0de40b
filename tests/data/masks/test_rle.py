import numpy as np
import pytest
from faster_coco_eval.core import mask as faster
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as official

from openpali.data.example import Box
from openpali.data.masks.rle import (
    LazyMask,
    decode_rle,
    encode_rle,
    mask_array,
    mask_box,
    polygons_mask,
    run_lengths,
)


def disc(height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return (rows - height / 2) ** 2 + (columns - width / 3) ** 2 < (min(height, width) / 3) ** 2


def same_everywhere(mask: np.ndarray) -> None:
    """Our string is that of both libraries, and comes back as the mask, compressed or not."""
    ours = encode_rle(mask)
    for library in (official, faster):
        theirs = library.encode(np.asfortranarray(mask.astype(np.uint8)))
        counts = theirs["counts"]
        assert ours == {
            "size": list(theirs["size"]),
            "counts": counts.decode() if isinstance(counts, bytes) else counts,
        }
        assert np.array_equal(decode_rle(theirs), mask)
    assert np.array_equal(decode_rle(ours), mask)
    assert np.array_equal(decode_rle({**ours, "counts": run_lengths(ours["counts"]).tolist()}), mask)


@settings(max_examples=150, deadline=None)
@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_run_lengths_are_those_of_cocos_libraries(mask):
    same_everywhere(mask)


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (900, 1), (480, 640), (1300, 1000)])
def test_long_runs_too(size):
    for mask in (np.zeros(size, bool), np.ones(size, bool), disc(*size), ~disc(*size)):
        same_everywhere(mask)


def test_a_string_by_hand():
    mask = np.array([[0, 1, 0], [1, 1, 0]], bool)
    assert encode_rle(mask) == {"size": [2, 3], "counts": "132"}
    assert decode_rle({"size": [2, 3], "counts": [1, 3, 2]}).tolist() == mask.tolist()


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ({"size": [2, 3], "counts": "133"}, "do not add up to 2 x 3"),
        ({"size": [2, 3], "counts": ""}, "not a string of a COCO RLE"),
        ({"size": [2, 3], "counts": "1 2"}, "not a string of a COCO RLE"),
        ({"size": [2, 3], "counts": "13é"}, "do not add up|not a string"),
        ({"size": [2, 3], "counts": "13P"}, "not a string of a COCO RLE"),
        ({"size": [2, 3], "counts": "o" * 40 + "0"}, "a number that no run can have"),
        ({"size": [2, 3], "counts": [7, -1]}, "do not add up"),
        ({"size": [2, 3], "counts": [2**62, 2**62, 2**62, 2**62, 6]}, "do not add up"),
        ({"size": [2, 3], "counts": [10**30]}, "not integers"),
        ({"size": [2, 3], "counts": ["a"]}, "not integers"),
        ({"size": [2, 3], "counts": None}, "neither a string nor a list"),
        ({"size": [2, 3]}, "needs size"),
        ({"counts": "132"}, "needs size"),
        ({"size": [2, 3, 4], "counts": "132"}, "needs size"),
        ({"size": [10**6, 10**6], "counts": "132"}, "not the height and width"),
        ({"size": [2.0, 3], "counts": "132"}, "not the height and width"),
    ],
)
def test_run_lengths_that_are_none(rle, message):
    with pytest.raises(ValueError, match=message):
        decode_rle(rle)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=30) | st.text(max_size=30))
def test_no_string_does_harm(counts):
    try:
        mask = decode_rle({"size": [5, 4], "counts": counts})
    except ValueError:
        return
    assert mask.shape == (5, 4)
    assert mask.dtype == bool


COORDINATES = st.one_of(
    st.integers(-15, 60).map(float),
    st.floats(-15, 60, allow_nan=False),
    st.integers(-150, 600).map(lambda value: value / 10),
)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.lists(st.tuples(COORDINATES, COORDINATES), min_size=3, max_size=12), min_size=1, max_size=3),
    st.integers(1, 50),
    st.integers(1, 50),
)
def test_polygons_cover_the_pixels_that_cocos_libraries_say(polygons, height, width):
    flat = [[value for point in polygon for value in point] for polygon in polygons]
    ours = polygons_mask(flat, height, width)
    for library in (official, faster):
        theirs = library.decode(library.merge(library.frPyObjects(flat, height, width))).astype(bool)
        assert np.array_equal(ours, theirs)


def test_a_polygon_by_hand():
    mask = polygons_mask([[1, 2, 4, 2, 4, 5, 1, 5], [0, 0, 1, 0, 1, 1, 0, 1]], 6, 8)
    assert mask[2:5, 1:4].all()
    assert mask[0, 0]
    assert mask.sum() == 10


@pytest.mark.parametrize("polygon", [[], [1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, float("nan")]])
def test_polygons_that_are_none(polygon):
    with pytest.raises(ValueError, match="a polygon"):
        polygons_mask([polygon], 9, 9)


def test_a_lazy_mask_is_made_once_and_looks_like_an_array():
    made = []

    def make():
        made.append(1)
        return disc(20, 30)

    lazy = LazyMask(make)
    assert made == []
    assert np.any(lazy)
    assert np.ascontiguousarray(lazy).shape == (20, 30)
    assert np.array(lazy, copy=True) is not lazy.array
    assert made == [1]
    for form in (lazy, disc(20, 30), encode_rle(disc(20, 30)), disc(20, 30).astype(np.uint8)):
        assert mask_array(form).dtype == bool
        assert np.array_equal(mask_array(form), disc(20, 30))


def test_the_box_of_a_mask():
    mask = np.zeros((10, 20), bool)
    mask[2:5, 4:19] = True
    assert mask_box(mask, "x") == Box(0.2, 0.2, 0.95, 0.5, "x")
