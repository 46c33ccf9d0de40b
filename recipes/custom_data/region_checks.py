"""Boxes and classes that look like a mistake in all of them: another format, other numbers, far too small."""

from collections.abc import Iterator, Sequence
from itertools import chain
from statistics import median
from typing import Any

from openpali.data.custom.dataset import CustomDataset
from openpali.data.custom.rows import BOX_FORMATS, RELATIVE, Row, RowObject, corners, read_box
from openpali.data.files.annotations import BadValue, reaches_outside
from openpali.data.files.coco_annotations import wrong_units
from openpali.data.masks.polygon_units import MOST_PAIRS, other_units, segmentation_edges
from openpali.recipes.custom_data.record_checks import Finding

# share of boxes outside their images from which the format as a whole is doubted
DOUBTED = 0.1
SMALL, ENOUGH = 4, 30
# relative coordinates round up too
_SIDE = 1.001


def box_format(found: CustomDataset) -> Iterator[Finding]:
    """Boxes that fit their images in another format than the one they are read in: swapped xywh and xyxy."""
    declared = found.spec.box_format
    boxes = [(item, row) for row in chain(*found.rows.values()) if row.size for item in row.objects]
    outside = [(item, row) for item, row in boxes if not _fits(item.box, declared, row)]
    if not outside and declared == "xywh" and len(boxes) >= ENOUGH and _all_fit(boxes, "xyxy"):
        text = f"all {len(boxes)} boxes fit as xyxy too, which boxes in xywh hardly ever do"
        yield Finding("warning", "box_format", f"{text}. Look at examples.png, and give --box_format xyxy if need be.")
    if not outside or len(outside) < DOUBTED * len(boxes):
        return
    first, row = outside[0]
    assert row.size is not None
    size = f"{row.size[0]}x{row.size[1]}"
    where = f"{row.file}:{first.record or row.record}: its box {first.box} does not fit its image of {size} pixels"
    share = f"{len(outside)} of {len(boxes)} boxes do not fit their images as {declared}"
    other = next((form for form in formats(boxes) if form != declared and _all_fit(boxes, form)), None)
    fits = f"all fit as {other}. {where}. Give --box_format {other}, or mend the file."
    neither = f"no format fits all. {where}. Mend the boxes, or give --box_format or --clip_boxes true."
    if found.spec.clip_boxes and not other:
        return
    yield Finding("error", "box_format", f"{share}, and {fits if other else neither}", len(outside))


def formats(boxes: Sequence[tuple[RowObject, Row]]) -> list[str]:
    """Formats that these boxes may have, by whether their largest number is above 1."""
    largest = max((value for item, _ in boxes for value in _numbers(item.box)), default=0.0)
    return [form + RELATIVE if largest <= _SIDE else form for form in BOX_FORMATS]


def _all_fit(boxes: Sequence[tuple[RowObject, Row]], form: str) -> bool:
    return all(_fits(item.box, form, row) for item, row in boxes)


def no_objects(found: CustomDataset) -> Iterator[Finding]:
    """Data in which there is nothing to be found."""
    rows = list(chain(*found.good.values()))
    if rows and not any(row.objects for row in rows):
        text = f"{found.spec.path}: none of its {len(rows)} images has an object. Give it annotations."
        yield Finding("error", "no_objects", text, len(rows))


def outline_units(found: CustomDataset) -> Iterator[Finding]:
    """Segmentations that would fit their boxes in other units than pixels, or with x and y exchanged."""
    if found.spec.kind != "segment":
        return
    pairs, first = [], None
    for row in chain(*found.rows.values()):
        for item in row.objects if len(pairs) < MOST_PAIRS else ():
            if item.crowd or item.segmentation is None or row.size is None:
                continue
            try:
                edges = segmentation_edges(item.segmentation)
                left, top, wide, high = corners(item.box, found.spec.box_format, row.size)
            except (ValueError, KeyError, TypeError):
                continue
            if edges is not None:
                pairs.append((edges, (left, top, left + wide, top + high), row.size))
                first = first or f"{row.file}:{item.record or row.record}"
    if units := other_units(pairs):
        reason, remedy = wrong_units(units)
        yield Finding("error", "outline_units", f"{first}: {reason}. {remedy}", len(pairs))


def clipped_boxes(found: CustomDataset) -> Iterator[Finding]:
    """How many boxes are clipped, where that is asked for."""
    if not found.spec.clip_boxes:
        return
    clipped = [
        (row, item)
        for row in chain(*found.good.values())
        for item in row.objects
        if row.size and reaches_outside(corners(item.box, found.spec.box_format, row.size), *row.size[::-1])
    ]
    if clipped:
        row, item = clipped[0]
        text = f"{len(clipped)} boxes reach outside their images and are clipped, the first is"
        yield Finding("note", "clipped", f"{text} {row.file}:{item.record or row.record}", len(clipped))


def class_numbers(found: CustomDataset) -> Iterator[Finding]:
    """Numbers of classes that nothing names, and whether they are counted from one where the names are from zero."""
    names, offset = found.class_names, found.spec.label_offset
    used: dict[int, tuple[Row, Any]] = {}
    for row in chain(*found.rows.values()):
        for item in row.objects:
            if (number := found.numbering.number(item.label)) is not None:
                used.setdefault(number, (row, item))
    unknown = sorted(set(used) - set(names))
    if not names or not unknown:
        return
    row, item = used[unknown[0]]
    where = f"{row.file}:{item.record or row.record}"
    ids = f"classes {unknown} are used and not among the categories, which are {min(names)} to {max(names)}"
    remedy = "Add their names, or remove their annotations."
    for step, first in ((-1, 1), (1, 0)):
        if all(number + step in names for number in used):
            seems = f"Labels seem to be {'one' if first else 'zero'}-based (they count from {first}) and names are not"
            remedy = f"{seems}: give --label_offset {offset + step}, or mend the file."
            break
    yield Finding("error", "class_numbers", f"{where}: {ids}. {remedy}", len(unknown))


def small_boxes(found: CustomDataset, resolution: int | None) -> Iterator[Finding]:
    """Boxes that are a few pixels in the model's images."""
    sides = []
    for row in chain(*found.good.values()):
        assert row.size is not None
        for item in row.objects:
            box = read_box(item.box, found.spec.box_format, row.size, clip=found.spec.clip_boxes)
            sides.append(min(box.x1 - box.x0, box.y1 - box.y0))
    if resolution and sides and (middle := median(sides) * resolution) < SMALL:
        text = (
            f"half of the boxes are less than {middle:.1f} pixels wide or high in the model's images of {resolution}"
        )
        yield Finding("warning", "small_boxes", f"{text}. Give a larger --resolution.", len(sides))


def _fits(box: Any, form: str, row: Row) -> bool:
    """Whether a box is one of its image; what is no box at all fits, since it is told by itself."""
    assert row.size is not None
    if len(_numbers(box)) != 4:
        return True
    try:
        read_box(box, form, row.size)
    except BadValue:
        return False
    # a share of a pixel is no box: coordinates are relative
    return min(corners(box, form, row.size)[2:]) > 0 and (form.endswith(RELATIVE) or max(_numbers(box)) > _SIDE)


def _numbers(box: Any) -> list[float]:
    try:
        return [float(value) for value in box]
    except (TypeError, ValueError):
        return []
