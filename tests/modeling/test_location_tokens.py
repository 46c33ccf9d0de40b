import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openpali.modeling.location_tokens import (
    LocatedBox,
    format_box,
    format_detections,
    location_token,
    location_value,
    parse_detections,
)

UNIT = st.floats(0, 1)
LABEL = st.text(st.characters(blacklist_characters=";<", blacklist_categories=["Cs"]), min_size=1).filter(str.strip)

# an independent description of what may be accepted, written without looking at the parser
BIN = r"<loc(0[0-9]{3}|10[01][0-9]|102[0-3])>"
ACCEPTABLE = re.compile(rf"\s*{BIN}\s*{BIN}\s*{BIN}\s*{BIN}(?P<label>.*)", re.DOTALL)
PIECES = ["<loc0000>", "<loc0007>", "<loc0512>", "<loc1023>", "<loc1024>", "<loc9999>", "<seg007>", "<seg128>"]
PIECES += ["<loc12>", "<loc00001>", "<LOC0001>", "<loc٠٠٠١>", "<loc", "0001>", "loc0001", "<", ">", "<eos>", "<seg7>"]
PIECES += [";", " ; ", ";;", " ", "\n", "\x00", "\u2003", "dog", "a ", "犬", "\ud800", "<loc0001 >", "'", "\\"]


@st.composite
def boxes(draw) -> LocatedBox:
    y1, x1, y2, x2 = (draw(st.integers(0, 1023)) for _ in range(4))
    (y1, y2), (x1, x2) = sorted((y1, y2)), sorted((x1, x2))
    y2, x2 = (y2 + 1 if y1 == y2 else y2), (x2 + 1 if x1 == x2 else x2)
    shift = 1023 / max(y2, x2, 1023)
    return LocatedBox(y1 / 1023 * shift, x1 / 1023 * shift, y2 / 1023 * shift, x2 / 1023 * shift, draw(LABEL))


@pytest.mark.parametrize(
    ("coordinate", "bin_"),
    # halves go to the even neighbour: 0.5 -> 0, 1.5 -> 2, 2.5 -> 2
    [(0.0, 0), (1.0, 1023), (0.5, 512), (-3.0, 0), (7.0, 1023), (0.5 / 1023, 0), (1.5 / 1023, 2), (2.5 / 1023, 2)],
)
def test_tokens_of_known_coordinates(coordinate, bin_):
    assert location_token(coordinate) == f"<loc{bin_:04d}>"


def test_order_is_y1_x1_y2_x2():
    box = LocatedBox(y1=0.0, x1=1 / 1023, y2=2 / 1023, x2=3 / 1023, label="dog")
    assert format_box(box) == "<loc0000><loc0001><loc0002><loc0003>"
    assert format_detections([box, box]) == " ; ".join(["<loc0000><loc0001><loc0002><loc0003> dog"] * 2)
    assert format_detections([]) == ""


def test_not_a_number_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        location_token(float("nan"))


@pytest.mark.parametrize("token", ["<loc1024>", "<loc12>", "loc0001", "<seg001>", "<loc٠٠٠١>", ""])
def test_value_of_other_tokens_is_refused(token):
    with pytest.raises(ValueError, match="not a location token"):
        location_value(token)


@given(UNIT)
def test_a_coordinate_moves_by_half_a_bin_at_most(coordinate):
    assert abs(location_value(location_token(coordinate)) - coordinate) <= 0.5 / 1023 + 1e-12


@given(UNIT, UNIT)
def test_tokens_keep_the_order_of_coordinates(a, b):
    low, high = sorted((a, b))
    assert location_token(low) <= location_token(high)


@given(st.lists(boxes(), max_size=5))
def test_what_is_written_is_read_back(written):
    found = parse_detections(format_detections(written))
    expected = [box for box in written if format_box(box)[:9] < format_box(box)[18:27]]
    expected = [box for box in expected if format_box(box)[9:18] < format_box(box)[27:]]
    assert [box.label for box in found.boxes] == [box.label.strip() for box in expected]
    for box, true in zip(found.boxes, expected, strict=True):
        assert box[:4] == pytest.approx(true[:4], abs=0.5 / 1023 + 1e-12)
    assert len(found.rejected) == len(written) - len(expected)


@given(st.text(st.sampled_from("<>loc0123456789; dogé\n٣"), max_size=80) | st.text(max_size=80))
def test_no_text_raises_and_every_part_is_accounted_for(text):
    found = parse_detections(text)
    parts = len(text.split(";")) if text.strip() else 0
    assert len(found.boxes) + len(found.rejected) == parts
    for box in found.boxes:
        assert 0 <= box.y1 < box.y2 <= 1
        assert 0 <= box.x1 < box.x2 <= 1
        assert box.label.strip() == box.label != ""
    assert all(reason for _, reason in found.rejected)


def adversarial(rng: random.Random) -> str:
    """Half of them nearly right, so that the parser is asked hard questions."""
    if rng.random() < 0.5:
        return "".join(rng.choice(PIECES) for _ in range(rng.randint(0, 14)))
    parts = []
    for _ in range(rng.randint(1, 3)):
        part = [rng.choice(PIECES[start : start + 3]) for start in (0, 0, 1, 1)]
        part += [rng.choice(["", " "]), rng.choice(["dog", "", "a cat"])]
        if rng.random() < 0.5:
            part[rng.randrange(len(part))] = rng.choice(PIECES)
        parts.append("".join(part))
    return rng.choice([" ; ", ";"]).join(parts)


def acceptable(part: str):
    match = ACCEPTABLE.fullmatch(part)
    if match is None:
        return None
    y1, x1, y2, x2 = (int(digits) for digits in match.groups()[:4])
    label = match["label"].strip()
    if not label or re.search("<loc[0-9][0-9][0-9][0-9]>|<seg[0-9][0-9][0-9]>", label) or y1 >= y2 or x1 >= x2:
        return None
    return y1, x1, y2, x2, label


def test_ten_thousand_adversarial_strings_are_read_as_an_independent_reader_would():
    rng = random.Random(0)
    accepted = 0
    for _ in range(10_000):
        text = adversarial(rng)
        expected = [box for box in map(acceptable, text.split(";")) if box]
        found = parse_detections(text)
        assert [(*(round(1023 * value) for value in box[:4]), box.label) for box in found.boxes] == expected, text
        assert len(found.rejected) == (len(text.split(";")) - len(expected) if text.strip() else 0)
        accepted += len(expected)
    assert accepted > 1000


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("dog", "does not begin"),
        ("<loc0001><loc0002><loc0003> dog", "3 location tokens"),
        ("<loc0001><loc0002><loc0003><loc0004><loc0005> dog", "5 location tokens"),
        ("<loc0001><loc0002><loc1024><loc0004> dog", "beyond"),
        ("<loc0005><loc0002><loc0005><loc0004> dog", "empty"),
        ("<loc0001><loc0002><loc0003><loc0004>", "no label"),
        ("<loc0001><loc0002><loc0003><loc0004> dog <loc0001>", "its label holds"),
        ("<loc0001><loc0002><loc0003><loc0004><seg001> dog", "its label holds"),
        ("<loc0001><loc0002><loc0003><loc0004> dog ;", "it is empty"),
    ],
)
def test_rejected_parts_say_why(text, reason):
    rejected = parse_detections(text).rejected
    assert len(rejected) == 1
    assert re.search(reason, rejected[0].reason)


def test_a_bad_part_does_not_spoil_the_good_ones():
    found = parse_detections(
        "<loc0000><loc0000><loc0512><loc0512> cat ; nonsense ; <loc0001><loc0001><loc0009><loc0009> ox"
    )
    assert [box.label for box in found.boxes] == ["cat", "ox"]
    assert [part.text for part in found.rejected] == ["nonsense"]


@pytest.mark.parametrize("label", ["", "  ", "a;b", "a <loc0001>", "<seg001>"])
def test_labels_that_could_not_be_read_back_are_refused(label):
    with pytest.raises(ValueError, match="label"):
        format_detections([LocatedBox(0, 0, 1, 1, label)])


def test_notations_of_boxes_are_distinct():
    """One box in an image of 200 x 100 pixels, in four notations."""
    box = LocatedBox(y1=0.1, x1=0.25, y2=0.5, x2=0.75, label="dog")
    assert LocatedBox.from_normalised_xyxy([0.25, 0.1, 0.75, 0.5], "dog") == box
    assert LocatedBox.from_pixel_xyxy([50, 10, 150, 50], width=200, height=100, label="dog") == box
    assert LocatedBox.from_coco_xywh([50, 10, 100, 40], width=200, height=100, label="dog") == box
    assert box.normalised_xyxy() == (0.25, 0.1, 0.75, 0.5)
    assert box.pixel_xyxy(200, 100) == (50, 10, 150, 50)
    assert box.coco_xywh(200, 100) == (50, 10, 100, 40)
    assert format_box(box) == "<loc0102><loc0256><loc0512><loc0767>"


@given(st.lists(st.floats(0, 4096), min_size=4, max_size=4), st.integers(1, 4096), st.integers(1, 4096))
def test_conversions_are_each_others_inverse(numbers, width, height):
    back = LocatedBox.from_coco_xywh(numbers, width, height).coco_xywh(width, height)
    assert back == pytest.approx(numbers, abs=1e-8)
    assert LocatedBox.from_pixel_xyxy(numbers, width, height).pixel_xyxy(width, height) == pytest.approx(numbers)
    assert LocatedBox.from_normalised_xyxy(numbers).normalised_xyxy() == tuple(numbers)


@pytest.mark.parametrize("numbers", [[1, 2, 3], [1, 2, 3, 4, 5], [0, 0, float("nan"), 1], [0, 0, float("inf"), 1]])
def test_boxes_of_other_than_four_finite_numbers_are_refused(numbers):
    for convert in (LocatedBox.from_pixel_xyxy, LocatedBox.from_coco_xywh):
        with pytest.raises(ValueError, match="four finite numbers"):
            convert(numbers, 10, 10)
    with pytest.raises(ValueError, match="four finite numbers"):
        LocatedBox.from_normalised_xyxy(numbers)


def test_corners_given_as_coco_are_noticed_where_they_can_be():
    with pytest.raises(ValueError, match="negative width"):
        LocatedBox.from_coco_xywh([50, 60, -10, 4], 100, 100)
