"""JSON lines of PaliGemma's detection: boxes from location tokens, and what is on an image for certain."""

import json

import pytest
from custom_files import NAMES, SIDE, save_image, some_box
from custom_records import load_custom
from layout_files import location_line, roboflow_paligemma

from openpali.data.custom.dataset import custom_spec, read_custom
from openpali.data.records import BadRecord

BOX = "<loc0256><loc0256><loc0512><loc0512>"


def lines(folder, rows):
    for number in range(10):
        save_image(folder / f"{number}.png", number)
    path = folder / "boxes.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def bad(path):
    read_custom.cache_clear()
    found = read_custom(custom_spec(str(path), "detect"))
    return [str(problem.bad) for rows in found.rows.values() for row in rows for problem in row.problems]


def test_the_download_gives_its_boxes_and_splits(tmp_path):
    for folder in (roboflow_paligemma(tmp_path), tmp_path / "dataset"):
        for split, numbers in {"train": range(8), "validation": range(8, 11), "test": range(11, 14)}.items():
            source = load_custom(folder, "detect", split=split)
            for index, number in enumerate(numbers):
                x, y, wide, high = some_box(number)
                [one] = source[index]["objects"]
                edges = [side * SIDE for side in (one["box"].x0, one["box"].y0, one["box"].x1, one["box"].y1)]
                # half a step of a token
                assert edges == pytest.approx([x, y, x + wide, y + high], abs=SIDE / 1023 / 2 + 1e-6)
                assert one["concept"] == NAMES[number % 3]


def test_lines_of_one_image_are_joined_and_empty_suffixes_are_negatives(tmp_path):
    rows = [{"image": f"{number}.png", "prefix": "detect a ; b", "suffix": ""} for number in range(9)]
    rows[0]["suffix"] = f"{BOX} a ; {BOX}{'<seg001>' * 16} b"
    rows += [{"image": "9.png", "prefix": "detect a", "suffix": f"{BOX} a"}] * 2
    rows += [{"image": "9.png", "prefix": "detect b", "suffix": ""}]
    path = lines(tmp_path, rows)
    assert bad(path) == []
    read = read_custom(custom_spec(str(path), "detect"))
    assert [len(row.objects) for row in read.rows[""]] == [2, *[0] * 8, 1]


def test_images_that_are_not_asked_about_every_class_are_left_out(tmp_path):
    rows = [{"image": f"{number}.png", "prefix": "detect a ; b", "suffix": f"{BOX} a"} for number in range(9)]
    path = lines(tmp_path, [*rows, {"image": "9.png", "prefix": "detect a", "suffix": ""}])
    [problem] = bad(path)
    assert problem == (
        f"{path}:10: its prefixes do not ask for b. Name every class in every prefix. Leave --kind out to train on the"
        " texts as they stand."
    )


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"suffix": "<loc0256><loc0256> a"}, "in its suffix is no box: it has 2 location tokens instead of 4"),
        ({"suffix": "<loc0256><loc0256><loc0256><loc0512> a"}, "the box is empty: y1 < y2 and x1 < x2 are needed"),
        ({"suffix": "a dog"}, "'a dog' in its suffix is no box: it does not begin with location tokens"),
        ({"suffix": f"{BOX} c"}, "its suffix has 'c', which its prefix does not ask for"),
        ({"suffix": None}, "its suffix is missing or not a text"),
        ({"prefix": "what is this?"}, "its prefix does not begin with detect"),
        ({"image": "gone.png"}, "there is no image gone.png"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path, change, text):
    rows = [{"image": f"{number}.png", "prefix": "detect a ; b", "suffix": f"{BOX} a"} for number in range(9)]
    rows[3] |= change
    path = lines(tmp_path, rows)
    [problem] = bad(path)
    assert problem.startswith(f"{path}:4: ")
    assert text in problem


def test_broken_lines_and_masks(tmp_path):
    path = lines(tmp_path, [location_line(0), "{", location_line(2)])
    assert f"{path}:2: it is not JSON" in bad(path)[0]
    with pytest.raises(BadRecord, match="its masks are tokens, which are not read back. Leave --kind out"):
        load_custom(path, "segment")
