"""COCO instances: a JSON file of images, annotations with boxes and outlines, and categories."""

from array import array
from pathlib import Path
from typing import Any

import numpy as np

from openpali.data.records import BadRecord
from openpali.data.sources.annotations import (
    BadPart,
    Outlines,
    Pictures,
    checked_box,
    checked_size,
    is_whole,
    judge,
    read_json,
)
from openpali.modeling.location_tokens import clean_label


class CocoInstances:
    """Annotated pictures, decoded as they are asked for.

    A record holds `id`, `image` (PIL RGB), `objects` and `crowds` (names of things of which a crowd is outlined as
    one). An object holds `concept` (its category), `names` (`{"en": category}`), `box`, `mask` (made when it is looked
    at; None without a segmentation) and `annotation` (its id). Pictures without an object are left out.

    The file is read and checked once. A picture of which an annotation cannot be used is left out altogether, since
    its other annotations would be half of the truth; `bad` says which one it was.

    Attributes:
        bad: what is wrong with each image or annotation that cannot be used.
        skipped_crowds: crowd annotations that are not among the objects.
        without_objects: pictures without any.
    """

    name = "coco"

    def __init__(self, path: str | Path, image_root: str | Path | None = None, crowd: bool = False) -> None:
        """Read and check a file.

        Args:
            path: such as `annotations/instances_train2017.json`.
            image_root: folder that file names are relative to and may not leave, such as `train2017`; by default
                that of the file.
            crowd: take crowds as objects.

        Raises:
            BadRecord: the file is missing or is no such file, no picture is good, or more than a tenth of 100 or more
                are bad.
        """
        self.path = Path(path)
        self.image_root = Path(image_root) if image_root is not None else self.path.parent
        self.crowd, self.skipped_crowds, self.without_objects = crowd, 0, 0
        self.bad: list[BadRecord] = []
        self._pictures = Pictures(self.image_root)
        content = read_json(self.path)
        self._read(*(self._list(content, key) for key in ("images", "annotations", "categories")))

    @property
    def notes(self) -> list[str]:
        """How many crowds and pictures are left out by design."""
        found = []
        if self.skipped_crowds:
            found.append(f"{self.skipped_crowds} crowd annotations are no objects (crowd: true takes them)")
        if self.without_objects:
            found.append(f"{self.without_objects} pictures without an object are left out")
        return found

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)} of {self.path}")
        row = int(self._records[index])
        width, height = (int(side) for side in self._sizes[row])
        id_ = int(self._ids[row])
        try:
            image = self._pictures.load(self._files[row], (width, height))
        except BadPart as part:
            raise BadRecord(str(self.path), f"image {id_}", part.reason, part.remedy) from part
        rows = self._order[self._starts[row] : self._starts[row + 1]]
        return {
            "id": f"{self.path.name}:{id_}",
            "image": image,
            "objects": [self._object(int(i), height, width) for i in rows if self.crowd or not self._is_crowd[i]],
            "crowds": sorted({self._names[self._things[i]] for i in rows if self._is_crowd[i] and not self.crowd}),
        }

    def _object(self, i: int, height: int, width: int) -> dict[str, Any]:
        name = self._names[self._things[i]]
        box = checked_box(self._boxes[i].tolist(), height, width, name)
        mask = self._outlines.mask(i, height, width)
        return {"concept": name, "names": {"en": name}, "box": box, "mask": mask, "annotation": int(self._numbers[i])}

    def _list(self, content: Any, key: str) -> list[Any]:
        found = content.get(key) if isinstance(content, dict) else None
        if not isinstance(found, list):
            reason = f'it has no list "{key}"'
            raise BadRecord(str(self.path), "all", reason, "Give a file of COCO instances; captions are another one.")
        return found

    def _read(self, images: list[Any], annotations: list[Any], categories: list[Any]) -> None:
        row_of = self._read_images(images)
        spoiled = self._read_annotations(annotations, self._read_categories(categories), row_of)
        objects = np.ones(len(self._is_crowd), bool) if self.crowd else ~self._is_crowd
        per_image = np.bincount(self._image_rows[objects], minlength=len(self._ids))
        good = np.ones(len(self._ids), bool)
        good[sorted(spoiled)] = False
        self.without_objects = int((good & (per_image == 0)).sum())
        self.skipped_crowds = int((~objects).sum())
        self._records = np.flatnonzero(good & (per_image > 0))
        self._order = np.argsort(self._image_rows, kind="stable")
        self._starts = np.searchsorted(self._image_rows[self._order], np.arange(len(self._ids) + 1))
        judge(self.path, len(self._records), len(images) - len(self._ids) + int((~good).sum()), self.bad)

    def _read_images(self, images: list[Any]) -> dict[Any, int]:
        """Row of each image id; -1 for the ids of images that cannot be used."""
        ids, sizes, self._files = array("q"), array("q"), []
        row_of: dict[Any, int] = {}
        for number, image in enumerate(images):
            id_ = image.get("id") if isinstance(image, dict) else None
            try:
                if not is_whole(id_):
                    raise BadPart(f"entry {number} of images has no whole number as id", "Give each image an id.")
                if id_ in row_of:
                    raise BadPart("another image has the same id", "Give each image an id of its own.")
                row_of[id_] = -1
                size = checked_size(image.get("width"), image.get("height"))
                name = self._pictures.check(image.get("file_name"))
            except BadPart as part:
                self._note(f"image {id_ if is_whole(id_) else f'number {number}'}", part)
                continue
            row_of[id_] = len(ids)
            ids.append(id_)
            sizes.extend(size)
            self._files.append(name)
        self._ids, self._sizes = np.array(ids), np.array(sizes, np.int64).reshape(-1, 2)
        return row_of

    def _read_categories(self, categories: list[Any]) -> dict[Any, int]:
        """Index in `_names` of each category id."""
        self._names: list[str] = []
        found = {}
        for category in categories:
            id_ = category.get("id") if isinstance(category, dict) else None
            try:
                name = clean_label(category["name"])
                if not name or not is_whole(id_):
                    raise ValueError("it has no name, or no whole number as id")
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                self._note(f"category {id_}", BadPart(f"it cannot be a label ({error})", 'Give "id" and "name".'))
                continue
            found[id_] = len(self._names)
            self._names.append(name)
        return found

    def _read_annotations(self, annotations: list[Any], things: dict[Any, int], row_of: dict[Any, int]) -> set[int]:
        """Rows of images with an annotation that cannot be used."""
        spoiled: set[int] = set()
        numbers, rows, kinds, crowds, boxes = array("q"), array("q"), array("i"), array("b"), array("d")
        self._outlines = Outlines()
        for place, annotation in enumerate(annotations):
            row = -1
            id_ = annotation.get("id") if isinstance(annotation, dict) else None
            try:
                if not is_whole(id_):
                    raise BadPart(f"entry {place} of annotations has no whole number as id", "Give each an id.")
                row = _known(annotation, "image_id", row_of, "images")
                # the image itself is bad, and has been noted
                if row < 0:
                    continue
                thing = _known(annotation, "category_id", things, "categories")
                width, height = (int(side) for side in self._sizes[row])
                checked_box(annotation.get("bbox"), height, width, "")
                self._outlines.add(annotation.get("segmentation"), height, width)
            except BadPart as part:
                self._note(f"annotation {id_ if is_whole(id_) else f'number {place}'}", part)
                spoiled |= {row} - {-1}
                continue
            numbers.append(id_)
            rows.append(row)
            kinds.append(thing)
            crowds.append(bool(annotation.get("iscrowd")))
            boxes.extend(annotation["bbox"])
        self._numbers, self._image_rows, self._things = np.array(numbers), np.array(rows, np.int64), np.array(kinds)
        self._is_crowd, self._boxes = np.array(crowds, bool), np.array(boxes).reshape(-1, 4)
        return spoiled

    def _note(self, record: str, part: BadPart) -> None:
        self.bad.append(BadRecord(str(self.path), record, part.reason, part.remedy))


def _known(annotation: dict[str, Any], key: str, table: dict[Any, int], what: str) -> int:
    """What the table has for an id; BadPart when it has nothing."""
    id_ = annotation.get(key)
    if not is_whole(id_) or id_ not in table:
        raise BadPart(f"its {key} {id_!r} is not among the {what}", "Mend it, or remove it from annotations.")
    return table[id_]
