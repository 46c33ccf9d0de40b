"""Find the files of custom data, and the split (train, validation or test) of each."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from openpali.data.custom.coco import read_coco
from openpali.data.custom.hub import HUB, is_saved, open_dataset, read_dataset
from openpali.data.custom.location_lines import has_locations, read_locations
from openpali.data.custom.pascal_voc import find_voc
from openpali.data.custom.readers import IMAGE_ENDS, RawData, read_classes, read_lines
from openpali.data.custom.rows import REGION_KINDS
from openpali.data.custom.split_names import split_of
from openpali.data.custom.tables import TABLE_ENDS, read_table
from openpali.data.custom.yolo import find_yolo
from openpali.data.custom.yolo_config import YAML_ENDS
from openpali.data.files.run_folders import is_hidden, is_run
from openpali.data.files.text_encoding import encoding_of
from openpali.data.records import BadRecord

_HEAD = 1 << 20

Reader = Callable[[], RawData]


def find_splits(
    data: str, kind: str, image_root: Path | None, columns: dict[str, str], others: dict[str, str | None]
) -> dict[str, Reader]:
    """A reader for each split; a single one under "" where nothing names splits.

    Args:
        data: a file, a folder, or `hf:NAME`.
        kind: one of `KINDS`.
        image_root: folder of the images; None to look beside the files.
        columns: our names of columns to those of the data.
        others: files of `validation` and `test`, where they are given separately.

    Raises:
        BadRecord: no data are found, or it is not clear which files to read.
    """
    if image_root is not None and not image_root.is_dir():
        raise BadRecord(str(image_root), "all", "there is no such folder", "Check --image_root.")
    found = _find(data, kind, image_root, columns)
    extra = {split: path for split, path in others.items() if path}
    if not extra:
        return found
    train = found.get("train") or found.get("")
    if train is None:
        raise BadRecord(data, "all", "it has no train split", "Give the training data as --data.")
    found = {key: reader for key, reader in found.items() if key} | {"train": train}
    for split, path in extra.items():
        of = _find(path, kind, image_root, columns)
        found[split] = of.get(split) or next(iter(of.values()))
    return found


def _find(data: str, kind: str, image_root: Path | None, columns: dict[str, str]) -> dict[str, Reader]:
    path = Path(data)
    if data.startswith(HUB) or path.is_dir() and is_saved(path):
        return _dataset_splits(data, kind, columns)
    if path.is_file() and path.suffix.lower() in YAML_ENDS:
        return find_yolo(path, image_root, kind)
    if path.is_file():
        return {"": _reader(path, kind, image_root, columns)}
    if not path.is_dir():
        raise BadRecord(
            data, "all", "there is no such file or folder", "Check the path; a name on the Hub is hf:NAME."
        )
    files = _annotation_files(path, kind)
    if files:
        return {split: _reader(file, kind, image_root, columns) for split, file in _by_split(files, data).items()}
    if found := find_yolo(path, image_root, kind) or find_voc(path, image_root, kind):
        return found
    below = [one for one in sorted(path.iterdir()) if one.is_dir() and not is_hidden(one.name) and not is_run(one)]
    folders = {one: split_of(one.name) for one in below}
    if folders and "train" in folders.values() and all(folders.values()):
        return {
            split: _only(_find(str(folder), kind, image_root, columns), str(folder))
            for split, folder in _by_split(list(folders), data).items()
        }
    _refuse_unclear(folders, data)
    if kind == "classify" and folders and (split_of(path.name) or any(map(_has_images, folders))):
        return {"": lambda: read_classes(path, image_root)}
    if kind in REGION_KINDS and len(below) == 1 and below[0].name != "images" and not _has_images(path):
        # a download in a folder of its own: dataset of Roboflow, VOC2012 in VOCdevkit
        return _find(str(below[0]), kind, image_root, columns)
    if any(path.rglob("labels/**/*.txt")) or any(path.rglob("*.xml")):
        reason = f"the folder holds nothing for {kind}, but boxes of YOLO (.txt) or Pascal VOC (.xml) below it"
        remedy = "Take --kind detect, and give the folder of data.yaml, of images and labels, or of Annotations."
        raise BadRecord(data, "all", reason, remedy)
    raise BadRecord(
        data,
        "all",
        f"the folder holds nothing for {kind}",
        "It may hold a COCO JSON, a data.yaml or folders images and labels of YOLO, Annotations of Pascal VOC, a"
        " metadata.jsonl or metadata.csv, folders train, validation and test with one each, what datasets saved, or"
        " for classify a folder of images for each class.",
    )


def _refuse_unclear(folders: dict[Path, str], data: str) -> None:
    """Raise BadRecord for folders named after splits beside folders that are not: none of them is a class."""
    splits = [one.name for one, split in folders.items() if split and not _has_images(one) and _has_folders(one)]
    others = [one.name for one, split in folders.items() if not split]
    if splits and others:
        reason = f"it is not clear what {', '.join(others)} is beside {', '.join(splits)}"
        remedy = "Move it elsewhere, or give each split by its own option (--validation_data)."
        raise BadRecord(data, "all", reason, remedy)


def _dataset_splits(data: str, kind: str, columns: dict[str, str]) -> dict[str, Reader]:
    tables = open_dataset(data)
    named = {split_of(name): (name, table) for name, table in tables.items()}
    if len(named) < len(tables):
        raise BadRecord(data, "all", f"its splits {', '.join(tables)} have ambiguous names", "Rename or remove some.")

    def reader(name: str, table: Any) -> Reader:
        return lambda: read_dataset(table, f"{data}:{name}" if name else data, kind, columns)

    return {split: reader(*found) for split, found in named.items()}


def _reader(path: Path, kind: str, image_root: Path | None, columns: dict[str, str]) -> Reader:
    if path.suffix == ".json" and _is_coco(path):
        return lambda: read_coco(path, image_root, kind)
    if path.suffix in (*TABLE_ENDS, ".json"):
        return lambda: _read_table(path, image_root, kind, columns)
    raise BadRecord(str(path), "all", f"{path.suffix or 'it'} cannot be read", "Give .json, .jsonl, .csv or .tsv.")


def _read_table(path: Path, image_root: Path | None, kind: str, columns: dict[str, str]) -> RawData:
    if kind in REGION_KINDS and "objects" not in columns:
        table = read_table(path, talk="question" not in columns and "answers" not in columns)
        if has_locations(table):
            return read_locations(path, table, image_root, kind)
        return read_lines(path, image_root, kind, columns, table)
    return read_lines(path, image_root, kind, columns)


def _is_coco(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(_HEAD)
    # `read_coco` reports an object that has another layout
    return head.decode(encoding_of(head), "ignore").lstrip("\ufeff \t\r\n").startswith("{")


def _annotation_files(folder: Path, kind: str) -> list[Path]:
    """Files of annotations in a folder or in its folder `annotations`; those of the kind where some are named so."""
    below = [one for one in (folder, folder / "annotations") if one.is_dir()]
    files = sorted(one for where in below for one in where.iterdir() if one.suffix in (".json", *TABLE_ENDS))
    files = [one for one in files if not is_hidden(one.name)]
    if (folder / "labels").is_dir():
        # Label Studio's, beside the labels of YOLO
        files = [one for one in files if one.name != "notes.json"]
    word = {"caption": "caption", "detect": "instance", "segment": "instance"}.get(kind, "")
    fitting = [one for one in files if word and word in one.stem]
    metadata = [one for one in files if one.stem == "metadata"]
    if is_run(folder) and files and not (fitting or metadata):
        names = ", ".join(one.name for one in files)
        reason = f"a run wrote into this folder, and it is not clear which of {names} are data"
        raise BadRecord(str(folder), "all", reason, "Give runs a folder of their own, and remove what they wrote.")
    return fitting or metadata or files


def _by_split(paths: list[Path], data: str) -> dict[str, Path]:
    """Split to path. Raises BadRecord when two paths have the same split."""
    found: dict[str, Path] = {}
    for path in paths:
        split = split_of(path.stem) if len(paths) > 1 else ""
        if split in found or len(paths) > 1 and not split:
            names = ", ".join(one.name for one in paths)
            reason = f"it is not clear which of {names} are for training, validation and test"
            raise BadRecord(data, "all", reason, "Give one as --data, others as --validation_data and --test_data.")
        found[split] = path
    return found


def _only(readers: dict[str, Reader], folder: str) -> Reader:
    if len(readers) > 1:
        raise BadRecord(folder, "all", "it is a split and has splits itself", "Give the folder above, or flatten it.")
    return next(iter(readers.values()))


def _has_folders(folder: Path) -> bool:
    return any(one.is_dir() and not is_hidden(one.name) for one in folder.iterdir())


def _has_images(folder: Path) -> bool:
    return any(one.suffix.lower() in IMAGE_ENDS for one in folder.iterdir())
