"""YOLO's layout (Ultralytics, Roboflow, Darknet): a text file of boxes or polygons for each image."""

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from openpali.data.custom.readers import IMAGE_ENDS, RawData
from openpali.data.custom.rows import REGION_KINDS, ImageOnDisk, Row, RowObject, add_problem
from openpali.data.custom.split_names import split_of
from openpali.data.custom.yolo_config import (
    MAY_LEAVE,
    YoloConfig,
    below,
    config_file,
    is_name_file,
    listed_names,
    read_config,
)
from openpali.data.files.annotations import BadValue
from openpali.data.files.run_folders import is_hidden, is_run, runs_below
from openpali.data.files.text_encoding import read_text
from openpali.data.records import BadRecord

# how far a share of a side may leave 0 to 1 by rounding
_ROUNDING = 1e-3
_FORM = "A line is class cx cy w h, or class x1 y1 x2 y2 x3 y3 ..., in shares of the image's sides."


def find_yolo(path: Path, image_root: Path | None, kind: str) -> dict[str, Callable[[], RawData]]:
    """A reader for each split of a data.yaml, or of a folder in YOLO's layout; none for another folder.

    Raises:
        BadRecord: the data.yaml cannot be used, or names no boxes for the kind.
    """
    if kind not in REGION_KINDS:
        if path.is_dir():
            return {}
        raise BadRecord(
            str(path), "all", f"YOLO has boxes and polygons, and nothing for {kind}", "Take --kind detect."
        )
    file = path if path.is_file() else config_file(path)
    if file is not None:
        config = read_config(file, image_root)
    elif splits := _splits(path):
        labels = [path / "labels", *(place.parent if place.name == "images" else place for [place] in splits.values())]
        config = YoloConfig(path, path, splits, listed_names(path, *labels))
    else:
        return {}
    notes, mistakes = config.notes, config.mistakes
    first = next(iter(config.splits))
    readers = {split: partial(read_yolo, config, places, kind) for split, places in config.splits.items()}

    def with_notes() -> RawData:
        read = read_yolo(config, config.splits[first], kind)
        read.notes, read.mistakes = [*notes, *read.notes], [*mistakes, *read.mistakes]
        return read

    return {**readers, first: with_notes}


def read_yolo(config: YoloConfig, places: Iterable[Path], kind: str) -> RawData:
    """Rows of the images in folders, or in text files that list images.

    An image without a label file, or with an empty one, has no objects. A label file without an image is a row that
    cannot be used.
    """
    read = RawData([], dict(config.names), layout="YOLO")
    seen: set[Path] = set()
    for place in places:
        images = list(_listed(place, config.root) if place.is_file() else _images_below(place))
        labels = {image: label_file(image, config.root) for image in images}
        used = {label for label in labels.values() if label.is_file()}
        read.rows += [_row(image, label, config, kind) for image, label in labels.items()]
        if images and not used:
            text = f"{place}: none of its {len(images)} images has a label file, such as {labels[images[0]]}"
            read.mistakes.append(f"{text}. Add them, or leave this split out.")
        elif not images:
            read.mistakes.append(f"{place}: it holds no image. Correct the path.")
        if place.is_dir():
            folders = {label.parent for image, label in labels.items() if label.parent != image.parent}
            seen |= used
            read.rows += [row for folder in sorted(folders) for row in _without_image(folder, seen)]
    return read


def label_file(image: Path, root: Path) -> Path:
    """The label file of an image: `labels` in place of the last `images` of its path, else beside the image."""
    beside = image.with_suffix(".txt")
    parts = list(image.relative_to(root).parts[:-1])
    if "images" not in parts:
        return beside
    last = len(parts) - 1 - parts[::-1].index("images")
    parts[last] = "labels"
    other = root.joinpath(*parts, beside.name)
    return beside if beside.is_file() and not other.is_file() else other


def _splits(folder: Path) -> dict[str, list[Path]]:
    """Split to folder of images in a folder without a data.yaml; "" for a single one, none in another layout."""
    images, labels = folder / "images", folder / "labels"
    if images.is_dir() and labels.is_dir() and any(labels.rglob("*.txt")):
        named = {one: split_of(one.name) for one in _folders(images)}
        if not any(named.values()):
            return {"": [images]}
        return _unique(named, images)
    named = {one: split_of(one.name) for one in _folders(folder)}
    if "train" in named.values() and all(named.values()) and all(map(_labelled, named)):
        return _unique(
            {one / "images" if (one / "images").is_dir() else one: split for one, split in named.items()}, folder
        )
    return {"": [folder]} if _labelled(folder, deep=False) else {}


def _unique(named: dict[Path, str], folder: Path) -> dict[str, list[Path]]:
    splits = list(named.values())
    if "train" not in splits or not all(splits) or len(set(splits)) < len(splits):
        listed = ", ".join(one.name for one in named)
        reason = f"it is not clear which of {listed} are for training, validation and test"
        raise BadRecord(str(folder), "all", reason, "Write a data.yaml with train: and val:, or rename them.")
    return {split: [place] for place, split in named.items()}


def _labelled(folder: Path, deep: bool = True) -> bool:
    """Whether a folder holds images with label files, in `images` and `labels` or side by side."""
    if deep and (folder / "images").is_dir() and (folder / "labels").is_dir():
        return True
    names = {one.name for one in folder.iterdir()}
    stems = {Path(name).stem for name in names if Path(name).suffix.lower() in IMAGE_ENDS}
    return any(f"{stem}.txt" in names for stem in stems)


def _folders(folder: Path) -> list[Path]:
    return [one for one in sorted(folder.iterdir()) if one.is_dir() and not is_hidden(one.name) and not is_run(one)]


def _images_below(folder: Path) -> Iterator[Path]:
    runs = runs_below(folder)
    for one in sorted(folder.rglob("*")):
        if one.suffix.lower() not in IMAGE_ENDS or runs & {*one.parents}:
            continue
        if not any(map(is_hidden, one.relative_to(folder).parts)):
            yield one


def _listed(file: Path, root: Path) -> Iterator[Path]:
    """The images that a text file lists, relative to it or to the root. Raises BadRecord for one that is outside."""
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if name := line.strip():
            bases = [base for base in (file.parent, root) if (base / name).exists()]
            path = (bases[0] if bases else root) / name
            found = below(root, path)
            if found is None:
                raise BadRecord(str(file), number, f"{name} is outside {root}", MAY_LEAVE)
            yield found


def _row(image: Path, label: Path, config: YoloConfig, kind: str) -> Row:
    name = image.relative_to(config.root).as_posix()
    outside = BadValue(f"{name} is a link out of {config.root}", "Give an --image_root that holds both.")
    found = ImageOnDisk(image, name) if below(config.root, image) else outside
    row = Row(str(config.path), f"image {name}", found, shares=True)
    if not label.is_file():
        return row
    row.file = str(label)
    if not below(config.root, label):
        add_problem(row, "line", f"it is a link out of {config.root}", "Give an --image_root that holds both.")
        return row
    try:
        text = read_text(label)
    except BadRecord as bad:
        add_problem(row, "line", bad.reason, bad.remedy, bad.record)
        return row
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                row.objects.append(_object(line, kind, str(number)))
            except BadValue as bad:
                add_problem(row, "box", bad.reason, bad.remedy, str(number))
    return row


def _object(line: str, kind: str, record: str) -> RowObject:
    """The object of a line, its box as left, top, width and height in shares of the sides. Raises BadValue."""
    words = line.split()
    try:
        label, *values = map(float, words)
    except ValueError as error:
        raise BadValue(f"{line.strip()[:60]!r} holds something else than numbers", _FORM) from error
    if not all(map(math.isfinite, (label, *values))):
        raise BadValue(f"{line.strip()[:60]!r} holds something else than finite numbers", _FORM)
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise BadValue(f"it has {len(words)} values; a box has 5, and a polygon 7, 9, 11 or more", _FORM)
    if far := [value for value in values if not -_ROUNDING <= value <= 1 + _ROUNDING]:
        raise BadValue(f"its value {far[0]:g} is not in 0 to 1, the shares of the image's sides", _FORM)
    number = int(label) if label.is_integer() else label
    if len(values) == 4:
        x, y, wide, high = values
        box, outline = [x - wide / 2, y - high / 2, wide, high], None
    else:
        left, top = min(values[::2]), min(values[1::2])
        box, outline = [left, top, max(values[::2]) - left, max(values[1::2]) - top], [values]
    if min(box[2:]) <= 0:
        raise BadValue("its box is empty: it is 0 wide or high", "Remove the line, or correct it.")
    return RowObject(number, box, outline if kind == "segment" else None, record)


def _without_image(folder: Path, used: set[Path]) -> Iterator[Row]:
    """A row that cannot be used for each label file without an image."""
    for file in sorted(folder.glob("*.txt")):
        if file not in used and not is_hidden(file.name) and not is_name_file(file.name):
            reason = f"there is no image for it: {file.stem}.jpg, .png or the like"
            yield Row(str(file), "all", BadValue(reason, "Add the image, or remove the file."))
