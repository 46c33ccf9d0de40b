"""Boxes, segmentations and category ids that look wrong in all of the data: format, units, offset, size."""

from collections.abc import Iterator, Sequence
from itertools import chain
from statistics import median
from typing import Any

from openpali.data.custom.dataset import CustomDataset
from openpali.data.custom.rows import BOX_FORMATS, RELATIVE, Row, RowObject, corners, read_box
from openpali.data.files.annotations import BadValue, reaches_outside
from openpali.data.files.coco_annotations import wrong_units
from openpali.data.masks.polygon_units import MOST_PAIRS, other_units, segmentation_edges
from openpali.recipes.custom_data.finding import Finding, place

# share of boxes outside their images from which the box format is in doubt
DOUBTED = 0.1
# pixels below which a box is small, and boxes from which their fit in another format is no accident
SMALL, ENOUGH = 4, 30
# largest relative coordinate, with its rounding
_SIDE = 1.001


def box_format(data: CustomDataset) -> Iterator[Finding]:
    """Boxes that fit their images in another format than the given one, such as swapped xywh and xyxy."""
    given = data.spec.box_format
    if data.layout:
        yield from _outside(data)
        return
    boxes = [(item, row) for row in chain(*data.rows.values()) if row.size for item in row.objects]
    outside = [(item, row) for item, row in boxes if not _fits(item.box, given, row)]
    if not outside and given == "xywh" and len(boxes) >= ENOUGH and _all_fit(boxes, "xyxy"):
        text = f"all {len(boxes)} boxes fit as xyxy too, which is rare for boxes in xywh"
        yield Finding("warning", "box_format", f"{text}. Look at examples.png, and give --box_format xyxy if need be.")
    if not outside or len(outside) < DOUBTED * len(boxes):
        return
    first, row = outside[0]
    assert row.size is not None
    size = f"{row.size[0]}x{row.size[1]}"
    where = f"{place(row, first)}: its box {first.box} does not fit its image of {size} pixels"
    share = f"{len(outside)} of {len(boxes)} boxes do not fit their images as {given}"
    other = next((form for form in possible_formats(boxes) if form != given and _all_fit(boxes, form)), None)
    fits = f"all fit as {other}. {where}. Give --box_format {other}, or correct the file."
    neither = f"no format fits all. {where}. Correct the boxes, or give --box_format or --clip_boxes true."
    if data.spec.clip_boxes and not other:
        return
    yield Finding("error", "box_format", f"{share}, and {fits if other else neither}", len(outside))


def _outside(data: CustomDataset) -> Iterator[Finding]:
    """Many boxes outside their images, in a layout that fixes their format."""
    boxes = [(row, item) for row in chain(*data.rows.values()) if row.size for item in row.objects]
    outside = [(row, item) for row, item in boxes if len(_numbers(item.box)) == 4 and not _inside(item.box, row)]
    if outside and len(outside) >= DOUBTED * len(boxes) and not data.spec.clip_boxes:
        text = f"{len(outside)} of {len(boxes)} boxes reach outside their images, the first is {place(*outside[0])}"
        yield Finding("error", "box_format", f"{text}. Correct them, or give --clip_boxes true.", len(outside))


def _inside(box: Any, row: Row) -> bool:
    assert row.size is not None
    return not reaches_outside(corners(box, "xywh", row.size), row.size[1], row.size[0])


def possible_formats(boxes: Sequence[tuple[RowObject, Row]]) -> list[str]:
    """Formats that the boxes may have: relative ones if no number is above 1."""
    largest = max((value for item, _ in boxes for value in _numbers(item.box)), default=0.0)
    return [form + RELATIVE if largest <= _SIDE else form for form in BOX_FORMATS]


def _all_fit(boxes: Sequence[tuple[RowObject, Row]], form: str) -> bool:
    """Whether all boxes fit their images in a format."""
    return all(_fits(item.box, form, row) for item, row in boxes)


def no_objects(data: CustomDataset) -> Iterator[Finding]:
    """Data without any object."""
    rows = list(chain(*data.good.values()))
    if rows and not any(row.objects for row in rows):
        text = f"{data.spec.path}: none of its {len(rows)} images has an object. Give it annotations."
        yield Finding("error", "no_objects", text, len(rows))


def segmentation_units(data: CustomDataset) -> Iterator[Finding]:
    """Segmentations that fit their boxes in other units than pixels, or with x and y exchanged."""
    if data.spec.kind != "segment":
        return
    pairs, first = [], None
    for row in chain(*data.rows.values()):
        for item in row.objects if len(pairs) < MOST_PAIRS else ():
            if item.crowd or item.segmentation is None or row.size is None:
                continue
            try:
                edges = segmentation_edges(item.segmentation)
                left, top, width, height = corners(item.box, data.spec.box_format, row.size)
            except (ValueError, KeyError, TypeError):
                continue
            if edges is not None:
                pairs.append((edges, (left, top, left + width, top + height), row.size))
                first = first or place(row, item)
    if units := other_units(pairs):
        reason, remedy = wrong_units(units)
        yield Finding("error", "segmentation_units", f"{first}: {reason}. {remedy}", len(pairs))


def clipped_boxes(data: CustomDataset) -> Iterator[Finding]:
    """The number of boxes that `clip_boxes` clips."""
    if not data.spec.clip_boxes:
        return
    clipped = [
        (row, item)
        for row in chain(*data.good.values())
        for item in row.objects
        if row.size and reaches_outside(corners(item.box, data.spec.box_format, row.size), *row.size[::-1])
    ]
    if clipped:
        text = f"{len(clipped)} boxes reach outside their images and are clipped, the first is {place(*clipped[0])}"
        yield Finding("note", "clipped", text, len(clipped))


def category_ids(data: CustomDataset) -> Iterator[Finding]:
    """Category ids without a name, such as 1-based ids where the names are 0-based."""
    names, offset = data.class_names, data.spec.label_offset
    used: dict[int, tuple[Row, Any]] = {}
    for row in chain(*data.rows.values()):
        for item in row.objects:
            if (number := data.numbering.number(item.label)) is not None:
                used.setdefault(number, (row, item))
    unknown = sorted(set(used) - set(names))
    if not names or not unknown:
        return
    where = place(*used[unknown[0]])
    ids = f"category ids {unknown} are used and not among the categories, which are {min(names)} to {max(names)}"
    remedy = "Add their names, or remove their annotations."
    for step, first in ((-1, 1), (1, 0)):
        if all(number + step in names for number in used):
            remedy = f"The annotations seem to have {first}-based category ids, unlike the names: give"
            remedy += f" --label_offset {offset + step}, or correct the file."
            break
    yield Finding("error", "category_ids", f"{where}: {ids}. {remedy}", len(unknown))


def small_boxes(data: CustomDataset, resolution: int | None) -> Iterator[Finding]:
    """Boxes of a few pixels at the model's resolution."""
    sides = []
    for row in chain(*data.good.values()):
        assert row.size is not None
        for item in row.objects:
            box = read_box(item.box, data.spec.box_format, row.size, clip=data.spec.clip_boxes)
            sides.append(min(box.x1 - box.x0, box.y1 - box.y0))
    if resolution and sides and (middle := median(sides) * resolution) < SMALL:
        text = f"half of the boxes are less than {middle:.1f} pixels wide or high at a resolution of {resolution}"
        yield Finding("warning", "small_boxes", f"{text}. Give a larger --resolution.", len(sides))


def _fits(box: Any, form: str, row: Row) -> bool:
    """Whether a box lies in its image; true for what is no box, which is a finding of its own."""
    assert row.size is not None
    if len(_numbers(box)) != 4:
        return True
    try:
        read_box(box, form, row.size)
    except BadValue:
        return False
    # a box smaller than a pixel is a relative one
    return min(corners(box, form, row.size)[2:]) > 0 and (form.endswith(RELATIVE) or max(_numbers(box)) > _SIDE)


def _numbers(box: Any) -> list[float]:
    """The values of a box; none if they are no numbers."""
    try:
        return [float(value) for value in box]
    except (TypeError, ValueError):
        return []
