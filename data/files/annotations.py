"""Checks of annotation files: JSON, ids, boxes and segmentations, and compact storage of many segmentations.

A COCO file of half a gigabyte becomes a few arrays, which loader workers share.
"""

import json
import math
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from openpali.data.example import Box
from openpali.data.files.text_encoding import read_text
from openpali.data.masks.rle import LazyMask, checked_polygon, checked_runs, decode_rle, encode_rle, polygons_mask
from openpali.data.records import MAX_PIXELS, BadRecord

MAX_BAD_SHARE, MANY = 0.1, 100

_OUTSIDE = 2.0  # pixels that a box may reach outside its image: published files round

_UNPICKLE = (
    'If you trust its origin, turn it into JSON yourself, once: python -c "import json, pickle; json.dump(pickle.load('
    "open('refs(unc).p', 'rb')), open('refs.json', 'w'))\". Then give path: refs.json, instances: instances.json."
)


class BadValue(ValueError):
    """A value of a record that cannot be used, with reason and remedy; its reader adds file and record."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(reason, remedy)
        self.reason, self.remedy = reason, remedy


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        BadRecord: there is no such file, it is a pickle, or it is not JSON.
    """
    if not path.is_file():
        raise BadRecord(str(path), "all", "there is no such file", "Check the path.")
    with path.open("rb") as file:
        pickled = path.suffix in (".p", ".pkl", ".pickle") or file.read(1) == b"\x80"
    if pickled:
        raise BadRecord(
            str(path), "all", "it is a pickle, which can run programs when it is opened, so it is not read", _UNPICKLE
        )
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        lines = "Extra data" in str(error)
        remedy = "If it has one object a line, call it .jsonl." if lines else "Fix or download it again."
        raise BadRecord(str(path), "all", f"it is not JSON ({error})", remedy) from error


class Segmentations:
    """Segmentations of many objects: polygons in one array of numbers, RLE as COCO's strings."""

    def __init__(self) -> None:
        """Start with none."""
        self._numbers, self._ends = array("d"), array("q", [0])  # coordinates, and where each polygon ends
        self._polygons = array("q", [0])  # number of polygons up to each object
        self._strings: dict[int, str] = {}

    def add(self, segmentation: Any, height: int, width: int) -> None:
        """Append the polygons or RLE of an object, as in COCO JSON; None and [] mean no segmentation.

        Raises:
            BadValue: it is neither, or an RLE of another size.
        """
        polygons: list[np.ndarray] = []
        if isinstance(segmentation, dict):
            self._strings[len(self._polygons) - 1] = _checked_string(segmentation, height, width)
        elif segmentation is not None:
            polygons = _checked_polygons(segmentation)
        for polygon in polygons:
            self._numbers.frombytes(polygon.tobytes())
            self._ends.append(len(self._numbers))
        self._polygons.append(self._polygons[-1] + len(polygons))

    def mask(self, index: int, height: int, width: int) -> LazyMask | None:
        """The mask of the object that was added at a position, in an image of that size; None without one."""
        if index in self._strings:
            rle = {"size": [height, width], "counts": self._strings[index]}
            return LazyMask(partial(decode_rle, rle))
        first, last = self._polygons[index], self._polygons[index + 1]
        polygons = [np.array(self._numbers[self._ends[i] : self._ends[i + 1]]) for i in range(first, last)]
        return LazyMask(partial(polygons_mask, polygons, height, width)) if polygons else None


def segmentation_mask(segmentation: Any, height: int, width: int) -> np.ndarray:
    """The mask of polygons or RLE, as in COCO JSON: bool[height, width].

    Raises:
        BadValue: it is neither, or an RLE of another size.
    """
    segmentations = Segmentations()
    segmentations.add(segmentation, height, width)
    mask = segmentations.mask(0, height, width)
    return mask.array if mask is not None else np.zeros((height, width), bool)


def _checked_polygons(segmentation: Any) -> list[np.ndarray]:
    if not isinstance(segmentation, list):
        raise BadValue("its segmentation is neither polygons nor RLE", "Give [[x1, y1, x2, y2, ...], ...].")
    if segmentation and not isinstance(segmentation[0], list):
        raise BadValue(
            "its segmentation is not a list of polygons", "Put the polygon into a list: [[x1, y1, x2, y2, ...]]."
        )
    try:
        return [checked_polygon(polygon).ravel() for polygon in segmentation]
    except ValueError as error:
        raise BadValue(f"its segmentation has {error}", "Fix or remove the polygon.") from error


def _checked_string(rle: dict[str, Any], height: int, width: int) -> str:
    """The string of a COCO RLE that fills the image. Raises BadValue."""
    if list(rle.get("size", ())) != [height, width]:
        raise BadValue(
            f"its RLE has size {rle.get('size')}, and the image is {height} pixels high and {width} wide",
            'Give "size": [height, width] of the image.',
        )
    try:
        checked_runs(rle)
        return rle["counts"] if isinstance(rle["counts"], str) else encode_rle(decode_rle(rle))["counts"]
    except ValueError as error:
        raise BadValue(f"its RLE is wrong: {error}", "Encode the mask again.") from error


def checked_box(bbox: Any, height: int, width: int, label: str, clip: bool = False) -> Box:
    """A Box from COCO's left, top, width and height in pixels, clipped to the image.

    Args:
        bbox: the four numbers.
        height: of the image in pixels.
        width: likewise.
        label: for the box.
        clip: accept boxes however far they reach outside.

    Raises:
        BadValue: not four numbers, empty, entirely outside, or (without `clip`) more than two pixels outside.
    """
    try:
        left, top, wide, high = (float(value) for value in bbox)
        if not math.isfinite(left + top + wide + high):
            raise ValueError
    except (TypeError, ValueError, OverflowError) as error:
        reason = f"its bbox {_short(bbox)} is not four numbers"
        raise BadValue(reason, "Give [left, top, width, height] in pixels.") from error
    if wide <= 0 or high <= 0:
        raise BadValue(f"its bbox {_short(bbox)} is empty", "Remove it, or give [left, top, width, height].")
    right, bottom = left + wide, top + high
    if not clip and reaches_outside((left, top, wide, high), height, width):
        raise BadValue(
            f"its bbox {_short(bbox)} reaches outside the image of {width} x {height} pixels",
            "Give [left, top, width, height] in pixels of this image, or clip all such boxes (clip_boxes: true).",
        )
    x0, y0, x1, y1 = max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))
    if x0 >= x1 or y0 >= y1:
        raise BadValue(f"its bbox {_short(bbox)} lies outside the image", "Remove it.")
    return Box(x0 / width, y0 / height, x1 / width, y1 / height, label)


def reaches_outside(box: Sequence[float], height: int, width: int) -> bool:
    """Whether a box of left, top, width and height in pixels leaves the image by more than two pixels."""
    left, top, wide, high = box
    return min(left, top) < -_OUTSIDE or left + wide > width + _OUTSIDE or top + high > height + _OUTSIDE


def id_key(value: Any) -> str | None:
    """The text by which ids are compared, so that "7", 7 and 7.0 are equal; None for an invalid id."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) and value or is_whole(value):
        return str(value)
    return None


def repeated(values: Iterable[Any]) -> set[str]:
    """The ids that occur more than once."""
    return {key for key, count in Counter(map(id_key, values)).items() if key is not None and count > 1}


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 80 else text[:77] + "..."


def is_whole(value: Any) -> TypeGuard[int]:
    """Whether a JSON value is an integer that fits in 64 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def checked_size(width: Any, height: Any) -> tuple[int, int]:
    """Width and height of an image. Raises BadValue unless they are integers in range."""
    if not (is_whole(width) and is_whole(height)) or min(width, height) < 1 or width * height > MAX_PIXELS:
        raise BadValue(f"its width {_short(width)} and height {_short(height)} are not valid", "Give both in pixels.")
    return width, height


def check_bad_share(
    path: Path,
    good: int,
    bad_records: int,
    bad: Sequence[BadRecord],
    needed: str = "Give a file with annotated images.",
) -> None:
    """Raise BadRecord when no record is good, or when more than a tenth of 100 or more are bad.

    Args:
        path: of the file.
        good: number of usable records.
        bad_records: number of the others.
        bad: their problems, of which the message quotes three.
        needed: the remedy for a file without records.
    """
    total = good + bad_records
    first = " ".join(str(record) for record in bad[:3])
    if good == 0:
        reason = f"none of its {total} records is good. The first: {first}" if total else "it has no records"
        raise BadRecord(str(path), "all", reason, "" if total else needed)
    if total >= MANY and bad_records > MAX_BAD_SHARE * total:
        reason = f"{bad_records} of its {total} records are bad, more than a tenth. The first: {first}"
        raise BadRecord(str(path), "all", reason, "Fix or remove them.")
