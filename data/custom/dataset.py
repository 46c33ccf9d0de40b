"""Custom data, read and checked once: the rows of each split, their problems, and a reproducible split."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

from tqdm import tqdm

from openpali.data.custom.classes import Classes, spelled
from openpali.data.custom.find_splits import find_splits
from openpali.data.custom.readers import RawData
from openpali.data.custom.rows import (
    BOX_FORMATS,
    KINDS,
    REGION_KINDS,
    RELATIVE,
    Row,
    add_problem,
    check_size,
    inspect_image,
    read_box,
    texts,
    to_pixels,
)
from openpali.data.files.annotations import BadValue, segmentation_mask
from openpali.data.files.coco_annotations import misplaced
from openpali.data.images.orientation import check_frame
from openpali.data.masks.polygon_units import Edges, segmentation_edges
from openpali.data.records import BadRecord

SHARE, MOST, FEWEST = 0.1, 512, 3
# images decoded while checking: the first ones, and as many spread over the others
_DECODED, _MANY = 100, 2000


@dataclass(frozen=True)
class CustomSpec:
    """Where custom data are and how to read them.

    Attributes:
        path: a file, a folder, or `hf:NAME` (`hf:NAME:CONFIGURATION`).
        kind: one of `KINDS`.
        image_root: folder of the images; looked for beside the file when None.
        columns: our names (`image`, `question`, `answers`, `objects`, `box`, `label`, `outline` for segmentations) to
            those of the data.
        box_format: `xywh` (left, top, width, height), `xyxy`, `cxcywh` or `yxyx`, in pixels; with the suffix
            `_relative` in [0, 1].
        label_offset: added to numbers of classes.
        classes: their names in order, where the data have only numbers.
        validation_path: separate data of the validation split.
        test_path: separate data of the test split.
        resplit: merge all splits, and split again.
        orientation: of the annotated images: `upright`, or as `stored`, before EXIF turns them.
        clip_boxes: clip boxes to their images, however far they reach outside.
    """

    path: str
    kind: str
    image_root: str | None = None
    columns: tuple[tuple[str, str], ...] = ()
    box_format: str = "xywh"
    label_offset: int = 0
    classes: tuple[str, ...] = ()
    validation_path: str | None = None
    test_path: str | None = None
    resplit: bool = False
    orientation: str = "upright"
    clip_boxes: bool = False

    def __post_init__(self):
        check_frame(self.orientation)
        if self.kind not in KINDS:
            raise ValueError(f"kind is one of {', '.join(KINDS)}, not {self.kind!r}")
        if self.box_format.removesuffix(RELATIVE) not in BOX_FORMATS:
            raise ValueError(f"box_format is one of {', '.join(BOX_FORMATS)}, with or without the suffix {RELATIVE}")


@dataclass
class CustomDataset:
    """All rows of custom data, checked.

    Attributes:
        spec: of the data.
        rows: split to rows; all under "" where the data are not split.
        class_names: number of a class to its name, where classes have numbers.
        notes: of the readers.
        mistakes: of whole files, found by the readers.
        layout: that fixes the format of boxes, such as YOLO; "" where `box_format` says it.
    """

    spec: CustomSpec
    rows: dict[str, list[Row]]
    class_names: dict[int, str]
    notes: list[str]
    mistakes: list[str]
    layout: str = ""

    @property
    def good(self) -> dict[str, list[Row]]:
        """Split to usable rows, by the splits of the data."""
        return {split: [row for row in rows if not row.problems] for split, rows in self.rows.items()}

    @property
    def bad(self) -> list[BadRecord]:
        """The first problem of each unusable row."""
        return [row.problems[0].bad for row in chain(*self.rows.values()) if row.problems]

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of their numbers, else sorted."""
        if self.spec.classes:
            return list(dict.fromkeys(map(spelled, self.spec.classes)))
        found = {name for row in chain(*self.good.values()) for name in self.labels(row)}
        # two numbers may have one name: a super-category named like its only class
        numbered = dict.fromkeys(name for _, name in sorted(self.class_names.items()) if name in found)
        return [*numbered, *sorted(found - set(numbered))]

    @property
    def numbering(self) -> Classes:
        """The mapping from labels to class names."""
        return classes_of(self.spec, self.class_names)

    def labels(self, row: Row) -> list[str]:
        """Class names of a usable row, one for each object."""
        numbering = self.numbering
        if self.spec.kind == "classify":
            return [numbering.answer(text) for text in texts(row.answers)]
        if self.spec.kind not in REGION_KINDS:
            return []
        return [numbering.label(item.label) for item in row.objects]

    def splits(self) -> dict[str, list[Row]]:
        """Usable rows for training, validation and test.

        Splits of the data stay. Without any, a tenth of the images (1 to 512) is set aside for validation and as many
        for test, each with objects where there are enough. Without a validation split, it is a tenth of the train
        split; without a test split, the validation split serves for both. The split depends on the content of the
        images alone: all records of an image and of its duplicates are in one split.

        Raises:
            BadRecord: there are too few images to split.
        """
        good = self.good
        if "" in good or self.spec.resplit:
            train, rest = set_aside(list(chain(*good.values())), 2, self.spec.path)
            validation, test = rest
        else:
            train, validation, test = (good.get(split) for split in ("train", "validation", "test"))
            if train is None:
                raise BadRecord(self.spec.path, "all", "it has no train split", "Add one, or give resplit.")
            if validation is None:
                train, (validation,) = set_aside(train, 1, self.spec.path)
            test = test if test is not None else validation
        return {"train": train, "validation": validation, "test": test}


def set_aside(rows: list[Row], count: int, name: str) -> tuple[list[Row], list[list[Row]]]:
    """Rows for training, and `count` held-out splits of other images, reproducibly. Raises BadRecord when too few."""
    digests = sorted({row.digest for row in rows})
    if len(digests) < FEWEST:
        reason = f"it has {len(digests)} different images that can be used, too few to set some aside for validation"
        raise BadRecord(name, "all", reason, "Give more, or --validation_data with images of its own.")
    each = max(1, min(MOST, round(SHARE * len(digests))))
    # digests serve as random numbers
    split_of = {digest: index // each for index, digest in enumerate(digests) if index < count * each}
    positive = {row.digest for row in rows if any(not item.crowd for item in row.objects)}
    split_of = share_positives(split_of, digests, positive, count)
    train = [row for row in rows if row.digest not in split_of]
    return train, [[row for row in rows if split_of.get(row.digest) == split] for split in range(count)]


def share_positives(split_of: dict[str, int], digests: list[str], positive: set[str], count: int) -> dict[str, int]:
    """Swap images between splits so that each has one with objects, training first, where there are enough.

    Args:
        split_of: digest to number of its held-out split.
        digests: of all images, sorted.
        positive: those with objects.
        count: number of held-out splits; it stands for training.
    """
    place = {digest: split_of.get(digest, count) for digest in digests}

    def members(split: int, wanted: bool) -> list[str]:
        return [digest for digest in digests if place[digest] == split and (digest in positive) == wanted]

    order = [count, *range(count)]
    for split in order:
        if members(split, True) or not positive:
            continue
        # a split gives away its only one to a split that comes before it
        least = {other: 1 + (order.index(other) < order.index(split)) for other in order}
        donors = [other for other in order if len(members(other, True)) >= least[other]]
        if donors:
            donor = max(donors, key=lambda other: len(members(other, True)))
            given, taken = members(donor, True)[0], members(split, False)[0]
            place[given], place[taken] = split, donor
    return {digest: split for digest, split in place.items() if split < count}


def custom_spec(path: str, kind: str, columns: Any = None, classes: Iterable[str] = (), **options: Any) -> CustomSpec:
    """The spec of values from a configuration."""
    pairs = tuple(sorted((str(key), str(value)) for key, value in (columns or {}).items()))
    return CustomSpec(str(path), kind, columns=pairs, classes=tuple(map(str, classes)), **options)


@lru_cache(maxsize=4)
def read_custom(spec: CustomSpec) -> CustomDataset:
    """Read and check every record, with every image's header and digest.

    Cached for the splits of one run; call `read_custom.cache_clear()` where the files may have changed.

    Raises:
        BadRecord: a file cannot be used. Problems of single records are in the rows' `problems`.
    """
    root = Path(spec.image_root) if spec.image_root else None
    others = {"validation": spec.validation_path, "test": spec.test_path}
    readers = find_splits(spec.path, spec.kind, root, dict(spec.columns), others)
    read = {split: reader() for split, reader in readers.items()}
    layout = fixed_layout(spec, read.values())
    names = {number: spelled(name) for number, name in agreed_classes(read, spec.path).items()}
    names = given_classes(spec, names)
    rows = {split: found.rows for split, found in read.items()}
    every = list(chain(*rows.values()))
    step = max(1, len(every) // _DECODED)
    for number, row in enumerate(tqdm(every, desc="images", unit="", disable=len(every) < _MANY)):
        inspect_image(row, number < _DECODED or number % step == 0, spec.orientation)
        to_pixels(row)
        check_size(row, spec.kind in REGION_KINDS)
        check_row(row, spec, names)
    notes, mistakes = (list(chain(*lists)) for lists in zip(*((one.notes, one.mistakes) for one in read.values())))
    return CustomDataset(spec, rows, names, notes, mistakes, layout)


def fixed_layout(spec: CustomSpec, read: Iterable[RawData]) -> str:
    """The layout that fixes the format of boxes; "" without. Raises BadRecord beside another `box_format`."""
    layout = next((found.layout for found in read if found.layout), "")
    if layout and spec.box_format != "xywh":
        reason = f"boxes of {layout} have a format of their own, and not {spec.box_format}"
        raise BadRecord(spec.path, "all", reason, "Leave --box_format out.")
    return layout


def classes_of(spec: CustomSpec, class_names: dict[int, str]) -> Classes:
    """The mapping from labels of the data to class names."""
    return Classes(class_names, spec.label_offset, bool(spec.classes))


def given_classes(spec: CustomSpec, named: dict[int, str]) -> dict[int, str]:
    """Class names by number: those of the data, else those of the spec in order.

    Raises:
        BadRecord: both have names, and the spec has one that the data do not have.
    """
    names = list(map(spelled, spec.classes))
    if named and (others := [name for name in names if name not in named.values()]):
        reason = f"the data name their classes ({', '.join(dict.fromkeys(named.values()))}), and not {others[0]!r}"
        raise BadRecord(spec.path, "classes", reason, "Leave --classes out, or rename the categories.")
    return named or dict(enumerate(names))


def agreed_classes(read: dict[str, RawData], path: str) -> dict[int, str]:
    """Class names by number. Raises BadRecord when two splits number them differently."""
    named = {split: found.class_names for split, found in read.items() if found.class_names}
    together: dict[int, str] = {}
    for split, names in named.items():
        for number, name in names.items():
            if together.setdefault(number, name) != name:
                reason = f"class {number} is {together[number]!r} in one split and {name!r} in {split}"
                raise BadRecord(path, "categories", reason, "Give all splits the same categories.")
    return together


def check_row(row: Row, spec: CustomSpec, class_names: dict[int, str]) -> None:
    """Note problems of a row, its image apart."""
    if spec.kind in REGION_KINDS:
        check_objects(row, spec, class_names)
        return
    if not texts(row.answers):
        text = {"caption": "caption", "classify": "label", "ocr": "text"}.get(spec.kind, "answer")
        add_problem(row, "empty_answer", f"its {text} is empty", f"Write its {text}, or remove the record.")
    if spec.kind == "classify":
        try:
            for text in texts(row.answers):
                classes_of(spec, class_names).answer(text)
        except BadValue as bad:
            add_problem(row, "beyond", bad.reason, bad.remedy)
    if spec.kind == "vqa" and not texts(row.question):
        add_problem(row, "empty_question", "its question is empty", "Write the question, or remove the record.")


def check_objects(row: Row, spec: CustomSpec, class_names: dict[int, str]) -> None:
    """Note objects that cannot be used; the image is left out, since its other objects alone would be incomplete."""
    numbering = classes_of(spec, class_names)
    for item in row.objects:
        try:
            numbering.label(item.label)
        except BadValue as bad:
            add_problem(row, "beyond" if spec.classes else "class", bad.reason, bad.remedy, item.record)
        if row.size is None:
            continue
        try:
            box = read_box(item.box, spec.box_format, row.size, clip=spec.clip_boxes)
        except BadValue as bad:
            add_problem(row, "box", bad.reason, bad.remedy, item.record)
            continue
        if spec.kind == "segment" and not item.crowd:
            width, height = row.size
            check_segmentation(row, item, (box.x0 * width, box.y0 * height, box.x1 * width, box.y1 * height))


def check_segmentation(row: Row, item: Any, box: Edges) -> None:
    """Note a segmentation that is missing, invalid or elsewhere than its box."""
    assert row.size is not None
    if item.segmentation is None:
        add_problem(
            row,
            "segmentation",
            "it has no segmentation",
            "Give polygons or RLE, or take --kind detect.",
            item.record,
        )
        return
    try:
        segmentation_mask(item.segmentation, row.size[1], row.size[0])
        if bad := misplaced(segmentation_edges(item.segmentation), box):
            raise bad
    except BadValue as bad:
        add_problem(row, "segmentation", bad.reason, bad.remedy, item.record)


def packed(row: Row) -> str:
    """A row's texts and boxes as JSON, a key to find duplicates."""
    return json.dumps([row.question, row.answers, [[item.label, item.box] for item in row.objects]], default=str)
