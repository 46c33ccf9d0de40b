"""Pascal VOC's layout: 1-based boxes, lists of splits, difficult objects, and XML that cannot be used."""

import pytest
from custom_files import NAMES, SIDE, save_image, some_box
from custom_records import load_custom
from layout_files import roboflow_voc, voc, voc_xml

from openpali.data.custom.dataset import custom_spec, read_custom
from openpali.data.custom.pascal_voc import parse_xml
from openpali.data.files.annotations import BadValue
from openpali.data.records import BadRecord


def read(path, **options):
    read_custom.cache_clear()
    return read_custom(custom_spec(str(path), "detect", **options))


def bad(path, **options):
    return [str(p.bad) for rows in read(path, **options).rows.values() for row in rows for p in row.problems]


def boxes(path, split="train"):
    source, found = load_custom(path, "detect", split=split), {}
    for record in (source[index] for index in range(len(source))):
        pairs = [(one["box"], one["concept"]) for one in record["objects"]]
        edges = [(*(round(side * SIDE, 6) for side in (b.x0, b.y0, b.x1, b.y1)), name) for b, name in pairs]
        found[record["image"].getpixel((0, 0))[0]] = edges
    return found


def expected(numbers):
    made = {number: some_box(number) for number in numbers}
    return {n: [(x, y, x + wide, y + high, NAMES[n % 3])] for n, (x, y, wide, high) in made.items()}


def test_lists_of_splits_and_xml_beside_images(tmp_path):
    voc(tmp_path / "VOCdevkit" / "VOC2012", {"train": 8, "val": 3, "test": 2})
    for folder in (tmp_path / "VOCdevkit" / "VOC2012", tmp_path / "VOCdevkit"):
        assert boxes(folder) == expected(range(8))
        assert boxes(folder, "validation") == expected(range(8, 11))
        assert boxes(folder, "test") == expected(range(11, 13))
    roboflow_voc(tmp_path / "roboflow")
    assert boxes(tmp_path / "roboflow") == expected(range(8))
    assert boxes(tmp_path / "roboflow", "test") == expected(range(11, 14))


def test_without_lists_every_xml_is_read(tmp_path):
    voc(tmp_path, {"trainval": 10})
    assert len(read(tmp_path).good["train"]) == 10
    (tmp_path / "ImageSets" / "Main" / "trainval.txt").unlink()
    (tmp_path / "Annotations").rename(tmp_path / "annotations")
    (tmp_path / "JPEGImages").rename(tmp_path / "images")
    save_image(tmp_path / "images" / "other.png", 99)
    found = read(tmp_path)
    assert len(found.good[""]) == 10
    assert found.notes == [f"{tmp_path}: 1 images have no XML file and are left out, the first is other.png"]


def test_the_image_has_the_name_of_the_xml_or_the_one_that_it_says(tmp_path):
    voc(tmp_path)
    images, notes = tmp_path / "JPEGImages", tmp_path / "Annotations"
    (images / "1.png").rename(images / "one.png")
    (notes / "1.xml").write_text(voc_xml(1, "one.png"))
    (notes / "2.xml").write_text(voc_xml(2, "stale.jpg"))
    assert boxes(tmp_path) == expected(range(10))
    (notes / "1.xml").write_text(voc_xml(1, "gone.png"))
    [problem] = bad(tmp_path)
    assert problem.startswith(f"{notes / '1.xml'}:all: there is no image gone.png")
    (notes / "1.xml").write_text(voc_xml(1, "../../other.png"))
    save_image(tmp_path.parent / "other.png", 1)
    assert "../../other.png is outside" in bad(tmp_path)[0]


def test_difficult_objects_are_crowds(tmp_path):
    voc(tmp_path)
    file = tmp_path / "Annotations" / "0.xml"
    more = voc_xml(1).partition("<object>")[2].partition("</object>")[0].replace("<difficult>0", "<difficult>1")
    file.write_text(voc_xml(0, more=f"<object>{more}</object>"))
    source = load_custom(tmp_path, "detect")
    assert [(len(source[index]["objects"]), source[index]["crowds"]) for index in (0, 1)] == [(1, ["lime"]), (1, [])]
    assert source.notes == [
        f"{tmp_path}: 1 objects are difficult; prompts of their images do not ask for their classes"
    ]


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("<annotation>", "<annotation", "0.xml:all: it is not XML (not well-formed (invalid token): line 1"),
        ("</annotation>", "", "0.xml:all: it is not XML (no element found"),
        ("<xmin>", "<xmin>x", "0.xml:object 1: its bndbox has xmin 'x"),
        ("bndbox", "robndbox", "0.xml:object 1: its bndbox has xmin '', ymin ''"),
        ("<xmax>", "<xmax>-", "0.xml:object 1: its bndbox ends before it begins"),
        ("<name>red</name>", "", "0.xml:object 1: its label is empty"),
        ("<xmax>", "<xmax>1", "0.xml:object 1: its bbox"),
        ("<width>40", "<width>41", "0.xml:all: 0.png is 40x40 pixels and the file says 41x40"),
    ],
)
def test_xml_that_cannot_be_used_is_named(tmp_path, old, new, text):
    voc(tmp_path)
    file = tmp_path / "Annotations" / "0.xml"
    file.write_text(file.read_text().replace(old, new))
    assert text in bad(tmp_path)[0]
    assert boxes(tmp_path) == expected(range(1, 10))


def test_entities_are_refused_at_once(tmp_path):
    lines = [f'<!ENTITY a{i} "{f"&a{i - 1};" * 10 if i else "ha"}">' for i in range(40)]
    text = f'<?xml version="1.0"?><!DOCTYPE a [{"".join(lines)}]><annotation>&a39;</annotation>'
    for encoding in ("utf-8", "utf-16"):
        with pytest.raises(BadValue, match="it has a DOCTYPE, which may define entities"):
            parse_xml(text.encode(encoding))
    voc(tmp_path)
    (tmp_path / "Annotations" / "0.xml").write_text(text)
    assert "0.xml:all: it has a DOCTYPE" in bad(tmp_path)[0]
    with pytest.raises(BadValue, match="it is not XML"):
        parse_xml(b"<annotation>&file;</annotation>")


def test_lines_without_an_xml_are_named(tmp_path):
    voc(tmp_path)
    with (tmp_path / "ImageSets" / "Main" / "train.txt").open("a") as file:
        file.write("77\n../1 1\n")
    first, second = bad(tmp_path)
    assert "train.txt:11: there is no Annotations/77.xml. Add it, or remove the line." in first
    assert "train.txt:12: there is no Annotations/../1.xml" in second


def test_boxes_that_begin_at_zero_are_noted(tmp_path):
    voc(tmp_path)
    (tmp_path / "Annotations" / "0.xml").write_text(voc_xml(0, box=(-1, 4, 10, 10)))
    [note] = read(tmp_path).notes
    assert note.startswith(f"1 boxes begin at 0, the first is {tmp_path / 'Annotations' / '0.xml'}:object 1")
    assert boxes(tmp_path)[0] == [(0, 4, 9, 14, "red")]


def test_other_kinds_are_refused(tmp_path):
    with pytest.raises(BadRecord, match="Pascal VOC has boxes, and nothing for segment. Export COCO JSON or YOLO"):
        load_custom(voc(tmp_path), "segment")
    with pytest.raises(BadRecord, match="holds nothing for caption, but boxes of YOLO"):
        load_custom(tmp_path, "caption")
