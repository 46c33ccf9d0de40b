"""COCO instances: a JSON file of images, annotations with boxes and segmentations, and categories."""

from array import array
from pathlib import Path
from typing import Any

import numpy as np

from openpali.data.files.annotations import (
    BadValue,
    check_bad_share,
    checked_box,
    checked_size,
    id_key,
    read_json,
    repeated,
)
from openpali.data.files.coco_annotations import AnnotationReader
from openpali.data.files.image_folder import ImageFolder
from openpali.data.images.open_image import BadImage
from openpali.data.images.orientation import check_frame, stored_size, turned_box, turned_mask
from openpali.data.records import BadRecord
from openpali.modeling.location_tokens import clean_label

_TURNED_AMONG = 200  # images whose EXIF orientation is read


class CocoInstances:
    """Annotated images, decoded on access.

    A record holds `id`, `image` (PIL RGB), `objects` and `crowds` (names of things that a crowd annotation covers). An
    object holds `concept` (its category), `names` (`{"en": category}`), `box`, `mask` (a `LazyMask`; None without a
    segmentation) and `annotation` (its id). Images without an object are left out.

    The file is read and checked once. An image with an unusable annotation is left out, since its other annotations
    would be incomplete ground truth; `bad` lists the annotation.

    Attributes:
        bad: the problem of each unusable image or annotation.
        skipped_crowds: number of crowd annotations that are not among the objects.
        without_objects: number of images without an object.
    """

    name = "coco"

    def __init__(
        self,
        path: str | Path,
        image_root: str | Path | None = None,
        crowd: bool = False,
        orientation: str = "upright",
        clip_boxes: bool = False,
    ) -> None:
        """Read and check a file.

        Args:
            path: such as `annotations/instances_train2017.json`.
            image_root: folder that file names are relative to and may not leave, such as `train2017`; by default
                that of the file.
            crowd: treat crowds as objects.
            orientation: of the annotated images: `upright`, or as `stored`, before EXIF turns them.
            clip_boxes: clip boxes to their images, however far they reach outside.

        Raises:
            BadRecord: the file is missing or has another layout, no image is good, more than a tenth of 100 or more
                are bad, more than a tenth of the annotations belong to no image, or segmentations have other units
                than boxes.
            ValueError: an unknown orientation.
        """
        self.path = Path(path)
        self.image_root = Path(image_root) if image_root is not None else self.path.parent
        self.crowd, self.skipped_crowds, self.without_objects = crowd, 0, 0
        self.orientation, self.clip_boxes = check_frame(orientation), clip_boxes
        self.bad: list[BadRecord] = []
        self._images = ImageFolder(self.image_root, self.image_root, self.path.parent)
        content = read_json(self.path)
        self._read(*(self._list(content, key) for key in ("images", "annotations", "categories")))

    @property
    def notes(self) -> list[str]:
        """Messages about crowds, images without objects, clipped boxes and EXIF orientations."""
        found = []
        if self.skipped_crowds:
            found.append(f"{self.skipped_crowds} crowd annotations are not objects (crowd: true makes them objects)")
        if self.without_objects:
            found.append(f"{self.without_objects} images without an object are left out")
        if self._found.clipped:
            found.append(f"{self._found.clipped} boxes reach outside their images and are clipped")
        if note := self._turned_note():
            found.append(note)
        return found

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)} of {self.path}")
        row = int(self._records[index])
        width, height = (int(side) for side in self._sizes[row])
        id_ = self._ids[row]
        try:
            image = self._images.load(self._files[row], (width, height), self.orientation)
            turn = self._turn(row)
        except BadValue as bad:
            raise BadRecord(str(self.path), f"image {id_}", bad.reason, bad.remedy) from bad
        rows = self._order[self._starts[row] : self._starts[row + 1]]
        crowds, things = self._found.crowds, self._found.things
        return {
            "id": f"{self.path.name}:{id_}",
            "image": image,
            "objects": [self._object(int(i), height, width, turn) for i in rows if self.crowd or not crowds[i]],
            "crowds": sorted({self._names[things[i]] for i in rows if crowds[i] and not self.crowd}),
        }

    def _object(self, i: int, height: int, width: int, turn: int) -> dict[str, Any]:
        found = self._found
        name = self._names[found.things[i]]
        box = turned_box(checked_box(found.boxes[i].tolist(), height, width, name, self.clip_boxes), turn)
        mask = turned_mask(found.segmentations.mask(i, height, width), turn)
        return {"concept": name, "names": {"en": name}, "box": box, "mask": mask, "annotation": int(found.numbers[i])}

    def _turn(self, row: int) -> int:
        """The EXIF orientation by which annotations have to be turned; 1 for none."""
        return 1 if self.orientation == "upright" else stored_size(self._images.inside(self._files[row]))[1]

    def _turned_note(self) -> str:
        """A message if EXIF turns some images, by a sample of their headers; "" otherwise."""
        some = self._records[:: max(1, len(self._records) // _TURNED_AMONG)][:_TURNED_AMONG]
        turned = 0
        for row in map(int, some):
            try:
                turned += stored_size(self.image_root / self._files[row])[1] != 1
            except BadImage:
                continue
        if not turned:
            return ""
        way = "upright" if self.orientation == "upright" else "as it is stored"
        return (
            f"EXIF turns {turned} of {len(some)} sampled images; their annotations are taken to be for"
            f" the image {way} (the option orientation says otherwise)"
        )

    def _list(self, content: Any, key: str) -> list[Any]:
        found = content.get(key) if isinstance(content, dict) else None
        if not isinstance(found, list):
            reason = f'it has no list "{key}"'
            raise BadRecord(str(self.path), "all", reason, "Give a file of COCO instances, not of captions.")
        return found

    def _read(self, images: list[Any], annotations: list[Any], categories: list[Any]) -> None:
        row_of = self._read_images(images)
        things = self._read_categories(categories)
        reader = AnnotationReader(self._sizes, self.clip_boxes, self._note)
        self._found = reader.read(annotations, things, row_of, self.path)
        rows, is_crowd = self._found.rows, self._found.crowds
        objects = np.ones(len(is_crowd), bool) if self.crowd else ~is_crowd
        per_image = np.bincount(rows[objects], minlength=len(self._ids))
        good = np.ones(len(self._ids), bool)
        good[sorted(self._found.spoiled)] = False
        self.without_objects = int((good & (per_image == 0)).sum())
        self.skipped_crowds = int((~objects).sum())
        self._records = np.flatnonzero(good & (per_image > 0))
        self._order = np.argsort(rows, kind="stable")
        self._starts = np.searchsorted(rows[self._order], np.arange(len(self._ids) + 1))
        check_bad_share(self.path, len(self._records), len(images) - len(self._ids) + int((~good).sum()), self.bad)

    def _read_images(self, images: list[Any]) -> dict[str, int]:
        """Image id to row; -1 for unusable images."""
        self._ids, sizes, self._files = [], array("q"), []
        twice = repeated(image.get("id") for image in images if isinstance(image, dict))
        row_of: dict[str, int] = {}
        for number, image in enumerate(images):
            id_ = id_key(image.get("id")) if isinstance(image, dict) else None
            try:
                if id_ is None:
                    raise BadValue(f"entry {number} of images has no id", "Give each a number.")
                row_of[id_] = -1
                if id_ in twice:
                    raise BadValue("another image has the same id", "Give each image an id of its own.")
                size = checked_size(image.get("width"), image.get("height"))
                name = self._images.check(image.get("file_name"))
            except BadValue as bad:
                self._note(f"image {id_ if id_ is not None else f'number {number}'}", bad)
                continue
            row_of[id_] = len(self._ids)
            self._ids.append(id_)
            sizes.extend(size)
            self._files.append(name)
        self._sizes = np.array(sizes, np.int64).reshape(-1, 2)
        return row_of

    def _read_categories(self, categories: list[Any]) -> dict[str, int]:
        """Category id to index in `_names`."""
        self._names: list[str] = []
        found: dict[str, int] = {}
        for category in categories:
            id_ = category.get("id") if isinstance(category, dict) else None
            try:
                name, key = clean_label(category["name"]), id_key(id_)
                if not name or key is None:
                    raise ValueError("it has no name, or no id")
                if key in found and self._names[found[key]] != name:
                    raise ValueError(f"its id is also that of {self._names[found[key]]!r}")
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                self._note(f"category {id_}", BadValue(f"it cannot be a label ({error})", 'Give "id" and "name".'))
                continue
            found[key] = len(self._names)
            self._names.append(name)
        return found

    def _note(self, record: str, bad: BadValue) -> None:
        self.bad.append(BadRecord(str(self.path), record, bad.reason, bad.remedy))
