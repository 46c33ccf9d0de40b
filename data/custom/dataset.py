"""Custom data, read once: rows of each part, what is wrong with some, and a split that is always the same."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

from tqdm import tqdm

from openpali.data.custom.classes import Classes, spelled
from openpali.data.custom.layouts import find_parts
from openpali.data.custom.readers import Read
from openpali.data.custom.rows import (
    BOX_FORMATS,
    KINDS,
    REGION_KINDS,
    RELATIVE,
    Row,
    check_size,
    look,
    problem,
    read_box,
    texts,
)
from openpali.data.files.annotations import BadPart, segmentation_mask
from openpali.data.files.coco_annotations import misplaced
from openpali.data.images.orientation import check_frame
from openpali.data.masks.polygon_units import Edges, outline_edges
from openpali.data.records import BadRecord

SHARE, MOST, FEWEST = 0.1, 512, 3
# images that are decoded at once: the first ones, and as many from all over the others
_DECODED, _MANY = 100, 2000


@dataclass(frozen=True)
class CustomSpec:
    """Where custom data are, and how to read them.

    Attributes:
        path: a file, a folder, or `hf:NAME` (`hf:NAME:CONFIGURATION`).
        kind: one of `KINDS`.
        image_root: folder of the images; looked for beside the file when None.
        columns: our names (`image`, `question`, `answers`, `objects`, `box`, `label`, `outline`) to those of the data.
        box_format: `xywh` (left, top, width, height), `xyxy`, `cxcywh` or `yxyx`, in pixels; with `_relative` behind
            it in shares of the image's sides.
        label_offset: added to numbers of classes.
        classes: their names in order, where the data have numbers and no names.
        validation_path, test_path: data of these parts, where they are files of their own.
        resplit: put all parts together, and split anew.
        orientation: of the images that were annotated: `upright`, or as `stored`, before EXIF turns them.
        clip_boxes: to their images, however far they reach outside.
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
            raise ValueError(f"box_format is one of {', '.join(BOX_FORMATS)}, perhaps with {RELATIVE} behind it")


@dataclass
class CustomDataset:
    """What `read_custom` found.

    Attributes:
        spec: of the data.
        rows: of every part as it was given; all under "" where the data are not split.
        class_names: number of a class to its name, where they have numbers.
        notes: of the readers.
        mistakes: of the readers, that make records of little use.
    """

    spec: CustomSpec
    rows: dict[str, list[Row]]
    class_names: dict[int, str]
    notes: list[str]
    mistakes: list[str]

    @property
    def good(self) -> dict[str, list[Row]]:
        """Rows that can be used, of the parts as they were given."""
        return {part: [row for row in rows if not row.problems] for part, rows in self.rows.items()}

    @property
    def bad(self) -> list[BadRecord]:
        """What is wrong with the others, the first thing of each."""
        return [row.problems[0].bad for row in chain(*self.rows.values()) if row.problems]

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of their numbers or of the alphabet."""
        if self.spec.classes:
            return list(dict.fromkeys(map(spelled, self.spec.classes)))
        found = {name for row in chain(*self.good.values()) for name in self.labels(row)}
        # two numbers may have one name: a super-category that is called as its only class
        numbered = dict.fromkeys(name for _, name in sorted(self.class_names.items()) if name in found)
        return [*numbered, *sorted(found - set(numbered))]

    @property
    def numbering(self) -> Classes:
        """How labels are read."""
        return classes_of(self.spec, self.class_names)

    def labels(self, row: Row) -> list[str]:
        """Classes of a good row, one for each object."""
        numbering = self.numbering
        if self.spec.kind == "classify":
            return [numbering.answer(text) for text in texts(row.answers)]
        if self.spec.kind not in REGION_KINDS:
            return []
        return [numbering.label(item.label) for item in row.objects]

    def splits(self) -> dict[str, list[Row]]:
        """Good rows for training, validation and test.

        Parts that were given stay. Of data without them a tenth of the images each is set aside for validation and
        test (at least one and at most 512, each part with objects where there are enough), of data without validation
        as much of the training part; without a test part the one for validation serves for both. It goes by the
        content of images: all records of one, and of its copies, are in one part, in whatever order files list them.

        Raises:
            BadRecord: there are too few images to split.
        """
        good = self.good
        if "" in good or self.spec.resplit:
            train, rest = set_aside(list(chain(*good.values())), 2, self.spec.path)
            validation, test = rest
        else:
            train, validation, test = (good.get(part) for part in ("train", "validation", "test"))
            if train is None:
                raise BadRecord(self.spec.path, "all", "it has no part for training", "Add one, or give resplit.")
            if validation is None:
                train, (validation,) = set_aside(train, 1, self.spec.path)
            test = test if test is not None else validation
        return {"train": train, "validation": validation, "test": test}


def set_aside(rows: list[Row], count: int, name: str) -> tuple[list[Row], list[list[Row]]]:
    """Rows to train on, and `count` parts of other images, always the same ones. Raises BadRecord when too few."""
    digests = sorted({row.digest for row in rows})
    if len(digests) < FEWEST:
        reason = f"it has {len(digests)} different images that can be used, too few to set some aside for validation"
        raise BadRecord(name, "all", reason, "Give more, or --validation_data with images of its own.")
    each = max(1, min(MOST, round(SHARE * len(digests))))
    # a digest is as good as a random number
    part_of = {digest: index // each for index, digest in enumerate(digests) if index < count * each}
    positive = {row.digest for row in rows if any(not item.crowd for item in row.objects)}
    part_of = share_positives(part_of, digests, positive, count)
    train = [row for row in rows if row.digest not in part_of]
    return train, [[row for row in rows if part_of.get(row.digest) == part] for part in range(count)]


def share_positives(part_of: dict[str, int], digests: list[str], positive: set[str], count: int) -> dict[str, int]:
    """Exchange images so that every part has one with objects, training first, as far as there are enough.

    Args:
        part_of: the part of each image that is set aside.
        digests: of all images, sorted.
        positive: those with objects.
        count: of parts that are set aside; its number is that of training.
    """
    place = {digest: part_of.get(digest, count) for digest in digests}

    def inside(part: int, wanted: bool) -> list[str]:
        return [digest for digest in digests if place[digest] == part and (digest in positive) == wanted]

    order = [count, *range(count)]
    for part in order:
        if inside(part, True) or not positive:
            continue
        # the only one of a part goes to a part that needs it more
        least = {other: 1 + (order.index(other) < order.index(part)) for other in order}
        donors = [other for other in order if len(inside(other, True)) >= least[other]]
        if donors:
            donor = max(donors, key=lambda other: len(inside(other, True)))
            given, taken = inside(donor, True)[0], inside(part, False)[0]
            place[given], place[taken] = part, donor
    return {digest: part for digest, part in place.items() if part < count}


def custom_spec(path: str, kind: str, columns: Any = None, classes: Iterable[str] = (), **options: Any) -> CustomSpec:
    """A spec of values as a configuration has them."""
    pairs = tuple(sorted((str(key), str(value)) for key, value in (columns or {}).items()))
    return CustomSpec(str(path), kind, columns=pairs, classes=tuple(map(str, classes)), **options)


@lru_cache(maxsize=4)
def read_custom(spec: CustomSpec) -> CustomDataset:
    """Read and check every record, and every image's header and content.

    Each part of a run asks for it; call `read_custom.cache_clear()` where the files may have changed.

    Raises:
        BadRecord: a file is no such file. What is wrong with single records is in the rows' `problems`.
    """
    root = Path(spec.image_root) if spec.image_root else None
    others = {"validation": spec.validation_path, "test": spec.test_path}
    read = {
        part: reader() for part, reader in find_parts(spec.path, spec.kind, root, dict(spec.columns), others).items()
    }
    names = {number: spelled(name) for number, name in agreed_classes(read, spec.path).items()}
    names = given_classes(spec, names)
    rows = {part: found.rows for part, found in read.items()}
    every = list(chain(*rows.values()))
    step = max(1, len(every) // _DECODED)
    for number, row in enumerate(tqdm(every, desc="pictures", unit="", disable=len(every) < _MANY)):
        look(row, number < _DECODED or number % step == 0, spec.orientation)
        check_size(row, spec.kind in REGION_KINDS)
        check_row(row, spec, names)
    notes, mistakes = (list(chain(*lists)) for lists in zip(*((one.notes, one.mistakes) for one in read.values())))
    return CustomDataset(spec, rows, names, notes, mistakes)


def classes_of(spec: CustomSpec, class_names: dict[int, str]) -> Classes:
    """How labels of the data are read."""
    return Classes(class_names, spec.label_offset, bool(spec.classes))


def given_classes(spec: CustomSpec, named: dict[int, str]) -> dict[int, str]:
    """Names of the classes by number: those of the data where they name them, else the list that is given.

    Raises:
        BadRecord: both do, and the list has another name.
    """
    names = list(map(spelled, spec.classes))
    if named and (others := [name for name in names if name not in named.values()]):
        reason = f"the data name their classes ({', '.join(dict.fromkeys(named.values()))}), and not {others[0]!r}"
        raise BadRecord(spec.path, "classes", reason, "Leave --classes out, or rename the categories.")
    return named or dict(enumerate(names))


def agreed_classes(read: dict[str, Read], path: str) -> dict[int, str]:
    """Numbers and names of classes. Raises BadRecord when two parts number them differently."""
    named = {part: found.class_names for part, found in read.items() if found.class_names}
    together: dict[int, str] = {}
    for part, names in named.items():
        for number, name in names.items():
            if together.setdefault(number, name) != name:
                reason = f"class {number} is {together[number]!r} in one part and {name!r} in {part}"
                raise BadRecord(path, "categories", reason, "Give all parts the same categories.")
    return together


def check_row(row: Row, spec: CustomSpec, class_names: dict[int, str]) -> None:
    """Note what is wrong with a row beyond its image."""
    if spec.kind in REGION_KINDS:
        check_objects(row, spec, class_names)
        return
    if not texts(row.answers):
        what = {"caption": "caption", "classify": "label", "ocr": "text"}.get(spec.kind, "answer")
        problem(row, "empty_answer", f"its {what} is empty", f"Write its {what}, or remove the record.")
    if spec.kind == "classify":
        try:
            for text in texts(row.answers):
                classes_of(spec, class_names).answer(text)
        except BadPart as part:
            problem(row, "beyond", part.reason, part.remedy)
    if spec.kind == "vqa" and not texts(row.question):
        problem(row, "empty_question", "its question is empty", "Write the question, or remove the record.")


def check_objects(row: Row, spec: CustomSpec, class_names: dict[int, str]) -> None:
    """Note objects that cannot be used: an image's other objects alone would be half of the truth."""
    numbering = classes_of(spec, class_names)
    for item in row.objects:
        try:
            numbering.label(item.label)
        except BadPart as part:
            problem(row, "beyond" if spec.classes else "class", part.reason, part.remedy, item.record)
        if row.size is None:
            continue
        try:
            box = read_box(item.box, spec.box_format, row.size, clip=spec.clip_boxes)
        except BadPart as part:
            problem(row, "box", part.reason, part.remedy, item.record)
            continue
        if spec.kind == "segment" and not item.crowd:
            width, height = row.size
            check_segmentation(row, item, (box.x0 * width, box.y0 * height, box.x1 * width, box.y1 * height))


def check_segmentation(row: Row, item: Any, box: Edges) -> None:
    """Note an outline that is none, or is elsewhere than its box. Raises nothing."""
    assert row.size is not None
    if item.outline is None:
        problem(
            row,
            "segmentation",
            "it has no segmentation",
            "Give polygons or run lengths, or take --kind detect.",
            item.record,
        )
        return
    try:
        segmentation_mask(item.outline, row.size[1], row.size[0])
        if part := misplaced(outline_edges(item.outline), box):
            raise part
    except BadPart as part:
        problem(row, "segmentation", part.reason, part.remedy, item.record)


def packed(row: Row) -> str:
    """A row as JSON, for keys of duplicates."""
    return json.dumps([row.question, row.answers, [[item.label, item.box] for item in row.objects]], default=str)
