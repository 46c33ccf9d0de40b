"""The checked annotations of a COCO file, as a few arrays that loader workers share."""

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

# edges of a segmentation and of its box, and width and height of the image
Pair = tuple[Edges, Edges, tuple[int, int]]


@dataclass
class CocoAnnotations:
    """Usable annotations, in the order of the file.

    Attributes:
        numbers: int64[N], their ids.
        rows: int64[N], rows of their images.
        things: int32[N], indices of their categories.
        crowds: bool[N].
        boxes: float64[N, 4] of left, top, width and height in pixels.
        segmentations: one for each.
        spoiled: rows of images with an unusable annotation.
        clipped: number of boxes that reach outside their images.
    """

    numbers: np.ndarray
    rows: np.ndarray
    things: np.ndarray
    crowds: np.ndarray
    boxes: np.ndarray
    segmentations: Segmentations
    spoiled: set[int]
    clipped: int


class AnnotationReader:
    """Checks annotations one by one and stores the usable ones."""

    def __init__(self, sizes: np.ndarray, clip_boxes: bool, note: Callable[[str, BadValue], None]) -> None:
        """Start with none.

        Args:
            sizes: int64[images, 2] of width and height.
            clip_boxes: accept boxes that reach outside their images.
            note: called with the name and the problem of an unusable annotation.
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
        """The usable annotations of a file.

        Args:
            annotations: as in the JSON.
            things: category id to index.
            row_of: image id to row; -1 for an unusable image.
            path: of the file, for messages.

        Raises:
            BadRecord: more than a tenth belong to no image, or segmentations have other units than boxes.
        """
        for place, annotation in enumerate(annotations):
            id_ = id_key(annotation.get("id")) if isinstance(annotation, dict) else None
            name = f"annotation {f'number {place}' if id_ is None else id_}"
            row = None
            try:
                row = known(annotation, "image_id", row_of, "images")
                # the problem of an unusable image is noted already
                if row >= 0:
                    self._add(annotation, name, place, row, known(annotation, "category_id", things, "categories"))
            except BadValue as bad:
                self._lost += row is None and isinstance(annotation, dict)
                self._note(name, bad)
                self._spoiled |= set() if row is None else {row}
        self._check_all(path, len(annotations))
        numbers, rows, things_ = np.array(self._numbers), np.array(self._rows, np.int64), np.array(self._things)
        crowds, boxes = np.array(self._crowds, bool), np.array(self._boxes).reshape(-1, 4)
        return CocoAnnotations(
            numbers, rows, things_, crowds, boxes, self._segmentations, self._spoiled, self._clipped
        )

    def _add(self, annotation: dict[str, Any], name: str, place: int, row: int, thing: int) -> None:
        """Store an annotation. Raises BadValue."""
        id_ = id_key(annotation.get("id")) or ""
        if not id_.isdecimal() or not is_whole(int(id_)):
            raise BadValue(f"entry {place} of annotations has no integer id", "Give each an id.")
        width, height = (int(side) for side in self._sizes[row])
        bbox, mask, crowd = annotation.get("bbox"), annotation.get("segmentation"), bool(annotation.get("iscrowd"))
        checked_box(bbox, height, width, "", self._clip)
        left, top, wide, high = box = [float(value) for value in bbox or ()]
        self._segmentations.add(mask, height, width)
        if not crowd and mask:
            edges, corners = segmentation_edges(mask), (left, top, left + wide, top + high)
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

    def _check_all(self, path: Path, total: int) -> None:
        """Check units and note misplaced segmentations, once all annotations are known. Raises BadRecord."""
        if units := other_units(self._pairs):
            raise BadRecord(str(path), "annotations", *wrong_units(units))
        for name, row, bad in self._misplaced:
            self._note(name, bad)
            self._spoiled.add(row)
        if self._lost > MAX_BAD_SHARE * total:
            reason = f"{self._lost} of {total} annotations belong to no image of the file, so images may lack objects"
            raise BadRecord(str(path), "annotations", reason, "Fix their image_id, or remove them.")


def misplaced(mask: Edges | None, box: Edges) -> BadValue | None:
    """The problem of a segmentation that is empty or elsewhere than its box; None where there is none."""
    if mask is None:
        return BadValue("its segmentation covers no pixel", "Fix or remove it.")
    if same_place(mask, box):
        return None
    places = ["{:g}, {:g} to {:g}, {:g}".format(*(round(edge, 2) for edge in edges)) for edges in (mask, box)]
    return BadValue(f"its segmentation is at {places[0]} and its box at {places[1]} pixels", "Fix one of them.")


def wrong_units(units: str) -> tuple[str, str]:
    """Reason and remedy for segmentations in other units than their boxes."""
    reason = f"the segmentations do not fit their boxes, and would as {units}"
    return reason, "Write them as x1, y1, x2, y2, ... in pixels."


def known(annotation: Any, key: str, table: dict[str, int], name: str) -> int:
    """The value of an annotation's id in a table. Raises BadValue for an id that the table does not have."""
    id_ = annotation.get(key) if isinstance(annotation, dict) else None
    number = table.get(id_key(id_) or "")
    if number is None:
        raise BadValue(f"its {key} {id_!r} is not among the {name}", "Fix it, or remove it from annotations.")
    return number
