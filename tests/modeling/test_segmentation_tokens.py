import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openpali.modeling.location_tokens import LocatedBox, format_box
from openpali.modeling.segmentation_tokens import (
    LocatedMask,
    format_codes,
    format_segmentations,
    parse_segmentations,
)

CODES = "".join(f"<seg{code:03d}>" for code in range(112, 128))
BOX = "<loc0001><loc0002><loc0003><loc0004>"

# an independent description of what may be accepted, written without looking at the parser
BIN, CODE = r"<loc(0[0-9]{3}|10[01][0-9]|102[0-3])>", r"<seg(0[0-9]{2}|1[01][0-9]|12[0-7])>"
ACCEPTABLE = re.compile(r"\s*" + rf"{BIN}\s*" * 4 + rf"{CODE}\s*" * 16 + "(?P<label>.*)", re.DOTALL)
LOCATIONS = ["<loc0000>", "<loc0007>", "<loc0512>", "<loc1023>"]
SEGMENTS = ["<seg000>", "<seg099>", "<seg100>", "<seg127>"]
PIECES = [
    "<loc1024>",
    "<seg128>",
    "<seg999>",
    "<seg12>",
    "<seg0001>",
    "<seg٠٠١>",
    "<SEG001>",
    "<seg",
    "007>",
    "seg007",
]
PIECES += [
    *LOCATIONS,
    *SEGMENTS,
    ";",
    " ; ",
    " ",
    "\n",
    "\x00",
    "\u2003",
    "dog",
    "犬",
    "\ud800",
    "<",
    ">",
    "<eos>",
    "",
]


@st.composite
def located_masks(draw) -> LocatedMask:
    (y1, y2), (x1, x2) = (sorted(draw(st.sets(st.integers(0, 1023), min_size=2, max_size=2))) for _ in range(2))
    codes = draw(st.lists(st.integers(0, 127), min_size=16, max_size=16))
    letters = st.characters(blacklist_characters=";<", blacklist_categories=["Cs"])
    label = draw(st.text(letters)).strip()
    return LocatedMask(LocatedBox(y1 / 1023, x1 / 1023, y2 / 1023, x2 / 1023, label), tuple(codes))


@given(st.lists(located_masks(), max_size=4))
def test_what_is_written_is_read_back(masks):
    assert parse_segmentations(format_segmentations(masks)) == (masks, [])


def test_the_string_of_a_known_mask():
    box = LocatedBox(0.1, 0.2, 0.7, 0.9, "dog")
    mask = LocatedMask(box, tuple(range(112, 128)))
    assert format_segmentations([mask]) == f"<loc0102><loc0205><loc0716><loc0921>{CODES} dog"
    unnamed = mask._replace(box=box._replace(label=""))
    assert format_segmentations([unnamed, mask]) == f"{format_box(box)}{CODES} ; {format_box(box)}{CODES} dog"
    assert format_segmentations([]) == ""


@pytest.mark.parametrize("codes", [[], [0] * 15, [0] * 17, [0] * 15 + [128], [0] * 15 + [-1]])
def test_codes_that_are_no_mask_are_refused(codes):
    with pytest.raises(ValueError, match="16 codes from 0 to 127"):
        format_codes(codes)


@pytest.mark.parametrize("label", ["a;b", "a <loc0001>", "<seg001>"])
def test_labels_that_could_not_be_read_back_are_refused(label):
    with pytest.raises(ValueError, match="label"):
        format_segmentations([LocatedMask(LocatedBox(0, 0, 1, 1, label), (0,) * 16)])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("dog", "does not begin"),
        (CODES, "does not begin"),
        (BOX, "0 segmentation tokens"),
        (f"{BOX} dog", "0 segmentation tokens"),
        (f"{BOX} dog {CODES}", "its label holds"),
        (BOX + CODES[:-8], "15 segmentation tokens"),
        (f"{BOX}{CODES}<seg000>", "17 segmentation tokens"),
        (BOX + CODES[:-8] + "<seg128>", "<seg128> is beyond <seg127>"),
        (f"{BOX}<loc0005>{CODES}", "5 location tokens"),
        (f"<loc1024>{BOX[9:]}{CODES}", "beyond <loc1023>"),
        (f"<loc0004>{BOX[9:]}{CODES}", "the box is empty"),
        (f"{BOX}{CODES} dog <loc0001>", "its label holds"),
        (f"{BOX}{CODES} ;", "it is empty"),
    ],
)
def test_rejected_parts_say_why(text, reason):
    rejected = parse_segmentations(text).rejected
    assert len(rejected) == 1
    assert reason in rejected[0].reason


def adversarial(rng: random.Random) -> str:
    """One or two parts that are right but for up to two changes, or nothing but pieces."""
    if rng.random() < 0.2:
        return "".join(rng.choice(PIECES) for _ in range(rng.randint(0, 30)))
    parts = []
    for _ in range(rng.randint(1, 2)):
        part = [rng.choice(LOCATIONS[start : start + 3]) for start in (0, 0, 1, 1)]
        part += rng.choices(SEGMENTS, k=16) + [rng.choice(["", " ", " dog", "a"])]
        for _ in range(rng.choice([0, 0, 1, 2])):
            place = rng.randrange(len(part))
            part[place : place + rng.randint(0, 2)] = [rng.choice(PIECES)]
        parts.append(rng.choice(["", "", " "]).join(part))
    return ";".join(parts)


def acceptable(part: str):
    match = ACCEPTABLE.fullmatch(part)
    if match is None:
        return None
    numbers = [int(digits) for digits in match.groups()[:20]]
    label = match["label"].strip()
    if re.search("<loc[0-9][0-9][0-9][0-9]>|<seg[0-9][0-9][0-9]>", label):
        return None
    return (*numbers, label) if numbers[0] < numbers[2] and numbers[1] < numbers[3] else None


def test_ten_thousand_adversarial_strings_are_read_as_an_independent_reader_would():
    rng = random.Random(0)
    accepted = 0
    for _ in range(10_000):
        text = adversarial(rng)
        expected = [mask for mask in map(acceptable, text.split(";")) if mask]
        found = parse_segmentations(text)
        read = [(*(round(1023 * value) for value in box[:4]), *codes, box.label) for box, codes in found.masks]
        assert read == expected, text
        assert len(found.rejected) == (len(text.split(";")) - len(expected) if text.strip() else 0)
        accepted += len(expected)
    assert accepted > 1000


@given(st.text(max_size=200))
def test_no_text_raises(text):
    found = parse_segmentations(text)
    assert len(found.masks) + len(found.rejected) == (len(text.split(";")) if text.strip() else 0)
