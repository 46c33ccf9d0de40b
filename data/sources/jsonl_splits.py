"""Folders with a JSONL file of prefixes and suffixes for each split, as Roboflow writes them for PaliGemma.

The files are called after the splits, or each lies in a folder that is, as maestro reads them.
"""

from pathlib import Path
from typing import Any

from openpali.data.custom.split_names import split_of
from openpali.data.files.run_folders import is_hidden, is_run
from openpali.data.records import BadRecord

_ENDS = ".jsonl"


def jsonl_source(data: str, image_root: str | None) -> dict[str, Any]:
    """The spec of a JSONL file, or of a folder with one for each split.

    Any other folder stays the path, and its source raises the reason.
    """
    source = {"name": "jsonl", "path": data, "image_root": image_root}
    if not Path(data).is_dir():
        return source
    try:
        folder, files = _split_files(Path(data))
    except BadRecord:
        # data with --kind have another source
        return source
    if set(files) <= {"", "train"}:
        return source | {"path": str(next(iter(files.values())))}
    return source | {"path": str(folder), "split": "train"}


def split_file(folder: Path, split: str) -> Path:
    """The file of a split; that of the validation split where there is none for test.

    Raises:
        BadRecord: the folder has no such files.
        ValueError: an unknown split.
    """
    if split not in ("train", "validation", "test"):
        raise ValueError(f"split is one of train, validation, test, not {split!r}")
    _, files = _split_files(folder)
    found = files.get(split) or files.get("validation" if split == "test" else split)
    if found is None:
        raise BadRecord(str(folder), split, f"it has no {_ENDS} file of this split", "Give a file, without split.")
    return found


def _split_files(folder: Path) -> tuple[Path, dict[str, Path]]:
    """The folder of the files and the file of each split; "" for a single one. Raises BadRecord."""
    if not folder.is_dir():
        raise BadRecord(str(folder), "all", "there is no such folder", "Check the path, or leave split out.")
    files = {file: file.stem for file in _files(folder)}
    below = [one for one in folder.iterdir() if one.is_dir() and not is_hidden(one.name) and not is_run(one)]
    if not files and len(below) == 1:
        # a download in a folder of its own
        return _split_files(below[0])
    files = files or {file: one.name for one in below if split_of(one.name) for file in _files(one)}
    if not files:
        reason, remedy = "the folder holds no .jsonl file of prefixes and suffixes", "For other layouts give --kind."
        raise BadRecord(str(folder), "all", reason, remedy)
    if len(files) == 1:
        return folder, {"": next(iter(files))}
    found = {split_of(name): file for file, name in files.items()}
    listed = ", ".join(file.relative_to(folder).as_posix() for file in files)
    if len(found) < len(files) or "" in found or "train" not in found:
        reason = f"it is not clear which of {listed} are for training, validation and test"
        raise BadRecord(str(folder), "all", reason, "Name them so, or give the one for training as --data.")
    if "validation" not in found:
        reason, remedy = f"{listed} are no validation split", "Give the file for training as --data."
        raise BadRecord(str(folder), "all", reason, f"{remedy} Some of its records are then held out.")
    return folder, found


def _files(folder: Path) -> list[Path]:
    return sorted(one for one in folder.iterdir() if one.suffix == _ENDS and not is_hidden(one.name))
