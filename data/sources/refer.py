"""Referring expressions: sentences, each of which means one object of an image.

    [{"image": "kitchen.png", "sentences": ["the left cup"], "bbox": [12, 30, 40, 44], "segmentation": [[12, ...]]}]

The files of RefCOCO, RefCOCO+ and RefCOCOg are pickles, which are not read. Once they are JSON, `instances` adds the
boxes and segmentations of COCO.
"""

from pathlib import Path
from typing import Any

from PIL import Image

from openpali.data.example import Box
from openpali.data.files.annotations import (
    BadValue,
    Segmentations,
    check_bad_share,
    checked_box,
    id_key,
    reaches_outside,
    read_json,
    repeated,
    segmentation_mask,
)
from openpali.data.files.coco_annotations import Pair, misplaced, wrong_units
from openpali.data.files.image_folder import ImageFolder
from openpali.data.images.open_image import BadImage
from openpali.data.images.orientation import UPRIGHT, check_frame, stored_size, turned_box, turned_mask, turned_size
from openpali.data.masks.polygon_units import MOST_PAIRS, other_units, segmentation_edges
from openpali.data.masks.rle import mask_box
from openpali.data.records import BadRecord
from openpali.modeling.location_tokens import clean_label

_SENTENCE_KEYS = ("sent", "sentence", "raw")
_SPLITS = {"validation": ("val", "validation", "dev"), "test": ("test", "testA", "testB")}


class ReferringExpressions:
    """Objects with referring expressions, one in each record.

    A record holds `id`, `image` (PIL RGB), `objects` (one) and `crowds` (none). The object holds `sentences`
    (`{"en": [...]}`), `names` (the first sentence, since the image may show more of its kind), `concept` (its
    category, or the first sentence), `box` and `mask` (a `LazyMask`; None without a segmentation).

    The whole file is checked at the start, with the size of every image. Unusable entries are left out.

    Attributes:
        bad: the problem of each unusable entry.
    """

    name = "refer"

    def __init__(
        self,
        path: str | Path,
        image_root: str | Path | None = None,
        split: str | None = None,
        instances: str | Path | None = None,
        each_sentence: bool = False,
        language: str = "en",
        orientation: str = "upright",
        clip_boxes: bool = False,
    ) -> None:
        """Read and check a file.

        Args:
            path: a JSON list. An entry has `image` or `file_name`; `sentence` or `sentences` (texts, or RefCOCO's
                dicts with `sent`); `bbox` (left, top, width, height in pixels), `segmentation` (polygons or RLE), or
                both; and optionally `id` or `ref_id`, `category` and `split`.
            image_root: folder that file names are relative to and may not leave; by default that of the file.
            split: of the entries to read; `validation` also means `val` and `dev`, `test` also testA and testB.
            instances: COCO's instances, for entries that have `ann_id` instead of an image and a box.
            each_sentence: one record for each sentence, as for published scores, instead of one for each entry.
            language: of the sentences.
            orientation: of the annotated images: `upright`, or as `stored`, before EXIF turns them.
            clip_boxes: clip boxes to their images, however far they reach outside.

        Raises:
            BadRecord: the file is missing, a pickle or no list, no entry is good, more than a tenth of 100 or more
                are bad, or segmentations have other units than boxes.
            ValueError: an unknown orientation.
        """
        self.path = Path(path)
        self.image_root = Path(image_root) if image_root is not None else self.path.parent
        self.split, self.language = split, language
        self.orientation, self.clip_boxes = check_frame(orientation), clip_boxes
        self.bad: list[BadRecord] = []
        self._images, self._segmentations = (
            ImageFolder(self.image_root, self.image_root, self.path.parent),
            Segmentations(),
        )
        # width and height as annotated, and the EXIF orientation that makes the image upright
        self._sizes: dict[str, tuple[int, int]] = {}
        self._turns: dict[str, int] = {}
        self._pairs: list[Pair] = []
        self._turned = self._clipped = 0
        self._entries: list[tuple[str, str, Box, str, list[str]]] = []
        self._read(self._list(), joined(Path(instances)) if instances is not None else {})
        # number of an entry, and of the record's sentence; None for all sentences
        self._records: list[tuple[int, int | None]] = [
            (i, turn)
            for i, entry in enumerate(self._entries)
            for turn in (range(len(entry[-1])) if each_sentence else [None])
        ]

    @property
    def notes(self) -> list[str]:
        """Messages about clipped boxes and EXIF orientations."""
        found = []
        if self._clipped:
            found.append(f"{self._clipped} boxes reach outside their images and are clipped")
        if self._turned:
            way = "upright" if self.orientation == "upright" else "as it is stored"
            text = f"EXIF turns {self._turned} of the images; their annotations are taken to be for the image {way}"
            found.append(f"{text} (the option orientation says otherwise)")
        return found

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)} of {self.path}")
        i, turn = self._records[index]
        id_ = f"{self.path.name}:{self._entries[i][0]}" + ("" if turn is None else f"-{turn}")
        return {"id": id_, "image": self._image(i), "objects": [self._object(i, turn)], "crowds": []}

    def _image(self, i: int) -> Image.Image:
        """The image of an entry, decoded. Raises BadRecord."""
        name, image = self._entries[i][:2]
        try:
            return self._images.load(image, self._sizes[image], self.orientation)
        except BadValue as bad:
            raise BadRecord(str(self.path), name, bad.reason, bad.remedy) from bad

    def _object(self, i: int, turn: int | None = None) -> dict[str, Any]:
        """The object of an entry, with one of its sentences or with all of them."""
        _, image, box, category, sentences = self._entries[i]
        width, height = self._sizes[image]
        texts, way = sentences if turn is None else [sentences[turn]], self._turns[image]
        thing = {"names": {self.language: texts[0]}, "sentences": {self.language: list(texts)}}
        thing |= {"box": turned_box(box, way), "mask": turned_mask(self._segmentations.mask(i, height, width), way)}
        return thing | {"concept": category or texts[0]}

    def _list(self) -> list[Any]:
        content = read_json(self.path)
        if not isinstance(content, list):
            raise BadRecord(str(self.path), "all", "it is not a JSON list", 'Give [{"image": ..., "sentences": ...}].')
        return content

    def _read(self, entries: list[Any], annotated: dict[Any, dict[str, Any]]) -> None:
        wanted = _SPLITS.get(self.split or "", (self.split,))
        names: set[str] = set()
        for number, entry in enumerate(entries):
            if self.split is not None and isinstance(entry, dict) and entry.get("split") not in wanted:
                continue
            name = _name(entry, number)
            try:
                if name in names:
                    raise BadValue("another entry has the same id", "Give each entry an id of its own, or none.")
                names.add(name)
                self._add(name, entry, annotated)
            except BadValue as bad:
                self.bad.append(BadRecord(str(self.path), name, bad.reason, bad.remedy))
        if not self._entries and not self.bad and self.split is not None:
            there = sorted({str(entry.get("split")) for entry in entries if isinstance(entry, dict)})
            reason = f"no entry has the split {self.split!r}; there are {', '.join(there)}"
            raise BadRecord(str(self.path), "all", reason, "Give one of these.")
        if units := other_units(self._pairs):
            raise BadRecord(str(self.path), "all", *wrong_units(units))
        check_bad_share(self.path, len(self._entries), len(self.bad), self.bad)

    def _add(self, name: str, entry: Any, annotated: dict[Any, dict[str, Any]]) -> None:
        if not isinstance(entry, dict):
            raise BadValue("it is not a JSON object", 'Write {"image": ..., "sentences": [...], "bbox": [...]}.')
        if "ann_id" in entry and "bbox" not in entry and "segmentation" not in entry:
            id_ = id_key(entry["ann_id"])
            if id_ is None or id_ not in annotated:
                remedy = "Give the option instances: the COCO file with its box and segmentation."
                raise BadValue(f"its ann_id {entry['ann_id']!r} is not among the instances", remedy)
            entry = entry | annotated[id_]
        sentences = _sentences(entry)
        category = entry.get("category")
        category = category if isinstance(category, str) and _usable(category) else ""
        image = self._images.check(entry.get("image", entry.get("file_name")))
        width, height = self._size(image)
        box = _box(entry, height, width, category or sentences[0], self.clip_boxes)
        self._compare(entry, box, width, height)
        self._segmentations.add(entry.get("segmentation"), height, width)
        self._entries.append((name, image, box, category, sentences))
        given = entry.get("bbox")
        self._clipped += given is not None and reaches_outside([float(value) for value in given], height, width)

    def _compare(self, entry: dict[str, Any], box: Box, width: int, height: int) -> None:
        """Raise BadValue for a segmentation that is elsewhere than its box."""
        if entry.get("bbox") is None or not entry.get("segmentation"):
            return
        try:
            edges = segmentation_edges(entry["segmentation"])
        except (ValueError, KeyError, TypeError):
            # `Segmentations.add` reports an invalid one
            return
        own = box.x0 * width, box.y0 * height, box.x1 * width, box.y1 * height
        if edges is not None and len(self._pairs) < MOST_PAIRS:
            self._pairs.append((edges, own, (width, height)))
        if bad := misplaced(edges, own):
            raise bad

    def _size(self, image: str) -> tuple[int, int]:
        """Width and height of the image as annotated, from its header, which is read once."""
        if image not in self._sizes:
            try:
                size, turn = stored_size(self.image_root / image)
            except BadImage as error:
                raise BadValue(str(error)) from error
            stored = self.orientation == "stored"
            self._sizes[image] = size if stored else turned_size(size, turn)
            self._turns[image] = turn if stored else UPRIGHT
            self._turned += turn != UPRIGHT
        return self._sizes[image]


def _name(entry: Any, number: int) -> str:
    """The name of an entry in messages and ids: its own id, or its place in the list from 0."""
    for key in ("ref_id", "id"):
        if isinstance(entry, dict) and isinstance(entry.get(key), int | str):
            return f"{key} {entry[key]}"
    return f"entry {number}"


def _sentences(entry: dict[str, Any]) -> list[str]:
    """The texts of an entry, with single spaces, and commas for semicolons, which separate boxes in targets."""
    found = entry.get("sentences", entry.get("sentence"))
    texts = []
    for sentence in found if isinstance(found, list) else [found]:
        if isinstance(sentence, dict):
            sentence = next((sentence[key] for key in _SENTENCE_KEYS if key in sentence), None)
        if not isinstance(sentence, str) or not sentence.strip():
            raise BadValue("its sentences are missing or not texts", 'Give "sentences" as a list of texts.')
        texts.append(" ".join(sentence.replace(";", ",").split()))
        if not _usable(texts[-1]):
            raise BadValue(f"its sentence {texts[-1]!r} holds a location or segmentation token", "Take it out.")
    if not texts:
        raise BadValue("it has no sentence", 'Give "sentences" as a list of texts.')
    return texts


def _usable(text: str) -> bool:
    """Whether a text can be a label."""
    try:
        return bool(clean_label(text))
    except ValueError:
        return False


def _box(entry: dict[str, Any], height: int, width: int, label: str, clip: bool) -> Box:
    """The box of an entry, else the one around its segmentation."""
    if entry.get("bbox") is not None:
        return checked_box(entry["bbox"], height, width, label, clip)
    if not entry.get("segmentation"):
        raise BadValue("it has neither bbox nor segmentation", "Give at least one of them.")
    mask = segmentation_mask(entry["segmentation"], height, width)
    if not mask.any():
        raise BadValue("its segmentation covers no pixel", "Fix it, or give bbox.")
    return mask_box(mask, label)


def joined(path: Path) -> dict[Any, dict[str, Any]]:
    """Annotation id to its `file_name`, `bbox`, `segmentation` and `category` in a COCO file.

    Raises:
        BadRecord: there is no such file, or it has another layout.
    """
    content = read_json(path)
    try:
        images, annotations = content["images"], content["annotations"]
        twice = repeated(image["id"] for image in images)
        files = {id_key(image["id"]): image["file_name"] for image in images if id_key(image["id"]) not in twice}
        categories = {id_key(category["id"]): category["name"] for category in content["categories"]}
        # two annotations with one id are ambiguous
        twice = repeated(annotation["id"] for annotation in annotations)
        return {
            key: {
                "file_name": files[id_key(annotation["image_id"])],
                "bbox": annotation["bbox"],
                "segmentation": annotation.get("segmentation"),
                "category": categories[id_key(annotation["category_id"])],
            }
            for annotation in annotations
            if (key := id_key(annotation["id"])) not in twice and id_key(annotation["image_id"]) in files
        }
    except (KeyError, TypeError) as error:
        reason = f"it is not a file of COCO instances ({error!r})"
        raise BadRecord(str(path), "all", reason, "Give instances_train2014.json, for example.") from error
