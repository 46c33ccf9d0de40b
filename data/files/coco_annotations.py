"""Annotations of a COCO file, checked, as a few arrays that the processes which read data share."""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from openpali.data.files.annotations import (
    MAX_BAD_SHARE,
    BadValue,
    Segmentations,
    checked_box,
    id_key,
    is_whole,
    reaches_outside,
)
from openpali.data.masks.polygon_units import MOST_PAIRS, Edges, other_units, same_place, segmentation_edges
from openpali.data.records import BadRecord

# edges of an outline and of its box, and width and height of the image
Pair = tuple[Edges, Edges, tuple[int, int]]


@dataclass
class CocoAnnotations:
    """Annotations that can be used, in the order of the file.

    Attributes:
        numbers: int64[N], their ids.
        rows: int64[N], of their images.
        things: int32[N], of their categories.
        crowds: bool[N].
        boxes: float64[N, 4] of left, top, width and height in pixels.
        outlines: of each.
        spoiled: rows of images with an annotation that cannot be used.
        clipped: how many boxes reach outside their images.
    """

    numbers: np.ndarray
    rows: np.ndarray
    things: np.ndarray
    crowds: np.ndarray
    boxes: np.ndarray
    outlines: Segmentations
    spoiled: set[int]
    clipped: int


class AnnotationReader:
    """Checks and keeps annotations one by one."""

    def __init__(self, sizes: np.ndarray, clip_boxes: bool, note: Callable[[str, BadValue], None]) -> None:
        """Start with none.

        Args:
            sizes: int64[images, 2] of width and height.
            clip_boxes: take boxes that reach outside.
            note: is told what is wrong with which annotation.
        """
        self._sizes, self._clip, self._note = sizes, clip_boxes, note
        self._numbers, self._rows, self._things = array("q"), array("q"), array("i")
        self._crowds, self._boxes = array("b"), array("d")
        self._pairs: list[Pair] = []
        self._misplaced: list[tuple[str, int, BadValue]] = []
        self._segmentations, self._spoiled, self._clipped, self._lost = Segmentations(), set[int](), 0, 0

    def read(
        self, annotations: Sequence[Any], things: dict[str, int], row_of: dict[str, int], path: Path
    ) -> CocoAnnotations:
        """What can be used of a file's annotations.

        Args:
            annotations: as JSON has them.
            things: number of each category, by its id.
            row_of: row of each image, by its id; -1 for one that cannot be used.
            path: of the file, for messages.

        Raises:
            BadRecord: more than a tenth are of no image, or outlines have other units than boxes.
        """
        for place, annotation in enumerate(annotations):
            id_ = id_key(annotation.get("id")) if isinstance(annotation, dict) else None
            name = f"annotation {f'number {place}' if id_ is None else id_}"
            row = None
            try:
                row = known(annotation, "image_id", row_of, "images")
                # what is wrong with the image itself has been noted
                if row >= 0:
                    self._add(annotation, name, place, row, known(annotation, "category_id", things, "categories"))
            except BadValue as bad:
                self._lost += row is None and isinstance(annotation, dict)
                self._note(name, bad)
                self._spoiled |= set() if row is None else {row}
        self._judge(path, len(annotations))
        numbers, rows, things_ = np.array(self._numbers), np.array(self._rows, np.int64), np.array(self._things)
        crowds, boxes = np.array(self._crowds, bool), np.array(self._boxes).reshape(-1, 4)
        return CocoAnnotations(
            numbers, rows, things_, crowds, boxes, self._segmentations, self._spoiled, self._clipped
        )

    def _add(self, annotation: dict[str, Any], name: str, place: int, row: int, thing: int) -> None:
        """Keep an annotation. Raises BadValue."""
        id_ = id_key(annotation.get("id")) or ""
        if not id_.isdecimal() or not is_whole(int(id_)):
            raise BadValue(f"entry {place} of annotations has no whole number as id", "Give each an id.")
        width, height = (int(side) for side in self._sizes[row])
        bbox, outline, crowd = annotation.get("bbox"), annotation.get("segmentation"), bool(annotation.get("iscrowd"))
        checked_box(bbox, height, width, "", self._clip)
        left, top, wide, high = box = [float(value) for value in bbox or ()]
        self._segmentations.add(outline, height, width)
        if not crowd and outline:
            edges, corners = segmentation_edges(outline), (left, top, left + wide, top + high)
            if edges is not None and len(self._pairs) < MOST_PAIRS:
                self._pairs.append((edges, corners, (width, height)))
            if bad := misplaced(edges, corners):
                self._misplaced.append((name, row, bad))
        self._clipped += reaches_outside(box, height, width)
        self._numbers.append(int(id_))
        self._rows.append(row)
        self._things.append(thing)
        self._crowds.append(crowd)
        self._boxes.extend(box)

    def _judge(self, path: Path, total: int) -> None:
        if units := other_units(self._pairs):
            raise BadRecord(str(path), "annotations", *wrong_units(units))
        for name, row, bad in self._misplaced:
            self._note(name, bad)
            self._spoiled.add(row)
        if self._lost > MAX_BAD_SHARE * total:
            reason = f"{self._lost} of {total} annotations are of no image of the file, so what is on it is not known"
            raise BadRecord(str(path), "annotations", reason, "Fix their image_id, or remove them.")


def misplaced(outline: Edges | None, box: Edges) -> BadValue | None:
    """What is wrong with an outline that covers nothing or is elsewhere than its box; None where nothing is."""
    if outline is None:
        return BadValue("its outline covers no pixel", "Fix or remove it.")
    if same_place(outline, box):
        return None
    places = ["{:g}, {:g} to {:g}, {:g}".format(*(round(edge, 2) for edge in edges)) for edges in (outline, box)]
    return BadValue(f"its outline is at {places[0]} and its box at {places[1]} pixels", "Fix one of them.")


def wrong_units(units: str) -> tuple[str, str]:
    """Reason and remedy for outlines that are in other units than their boxes."""
    reason = f"the outlines do not fit their boxes, and would as {units}"
    return reason, "Write them as x1, y1, x2, y2, ... in pixels."


def known(annotation: Any, key: str, table: dict[str, int], what: str) -> int:
    """What the table has for an id. Raises BadValue when it has nothing."""
    id_ = annotation.get(key) if isinstance(annotation, dict) else None
    number = table.get(id_key(id_) or "")
    if number is None:
        raise BadValue(f"its {key} {id_!r} is not among the {what}", "Fix it, or remove it from annotations.")
    return number
