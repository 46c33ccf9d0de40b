"""The data.yaml of YOLO (Ultralytics, Roboflow): where the images of each split are, and the names of the classes."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from openpali.data.files.run_folders import is_hidden
from openpali.data.files.text_encoding import read_text
from openpali.data.records import BadRecord

YAML_ENDS = (".yaml", ".yml")
# keys of the splits, and the files that list names one a line
_KEYS = {"train": "train", "validation": "val", "test": "test"}
_NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels")
MAY_LEAVE = "Move it there, or give an --image_root that holds both."


@dataclass
class YoloConfig:
    """What a data.yaml says.

    Attributes:
        path: of the file.
        root: folder that images and labels may not leave.
        splits: split to existing folders of images, or text files that list images.
        names: number of a class to its name.
        notes: messages for the user.
        mistakes: errors of the file as a whole.
    """

    path: Path
    root: Path
    splits: dict[str, list[Path]]
    names: dict[int, str]
    notes: list[str] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)


def config_file(folder: Path) -> Path | None:
    """The YAML of a folder that names classes and a train split; None without one. Raises BadRecord for several."""
    files = sorted(one for one in folder.iterdir() if one.suffix.lower() in YAML_ENDS and not is_hidden(one.name))
    found = [one for one in files if one.stem in ("data", "dataset") or _describes_data(one)]
    found = [one for one in found if one.stem == "data"] or found
    if len(found) > 1:
        reason = f"it is not clear which of {', '.join(one.name for one in found)} describes the data"
        raise BadRecord(str(folder), "all", reason, "Give that file itself as --data.")
    return found[0] if found else None


def read_config(path: Path, image_root: Path | None) -> YoloConfig:
    """Read a data.yaml.

    Raises:
        BadRecord: it is not YAML, lacks its train split, is of another task, or a path leaves its folder.
    """
    content = _load(path)
    if not isinstance(content, dict) or not content.get("train"):
        raise BadRecord(
            str(path), "train", "it names no images for training", "Add a line such as train: images/train."
        )
    if "kpt_shape" in content:
        raise BadRecord(str(path), "kpt_shape", "its labels are keypoints, not boxes", "Export boxes or polygons.")
    inside = path.parent
    if image_root and path.parent.resolve().is_relative_to(image_root.resolve()):
        inside = image_root
    config = YoloConfig(path, inside, {}, class_names(content.get("names"), path))
    for split, key in _KEYS.items():
        wanted = content.get(key) or (content.get("valid") if key == "val" else None)
        if not wanted:
            continue
        places = [_place(config, key, one, content.get("path")) for one in _texts(wanted, path, key)]
        missing = [name for name, place in places if place is None]
        if missing and split == "train":
            raise BadRecord(str(path), key, f"there is no {missing[0]} in {inside}", "Correct the path.")
        if missing:
            config.notes.append(f"{path}:{key}: there is no {missing[0]}; this split is left out")
            continue
        config.splits[split] = [place for _, place in places if place is not None]
    count = content.get("nc")
    if isinstance(count, int) and config.names and count != len(config.names):
        text = f"{path}:nc: it says {count} classes, and names has {len(config.names)}. Correct one of them."
        config.mistakes.append(text)
    return config


def class_names(names: Any, path: Path) -> dict[int, str]:
    """Number of a class to its name, from a list or a mapping. Raises BadRecord."""
    pairs = enumerate(names) if isinstance(names, list) else names.items() if isinstance(names, dict) else ()
    found = {}
    for number, name in pairs:
        if not isinstance(name, str | int | float) or isinstance(name, bool):
            # never the text of a list: aliases may make it endless
            shown = name if isinstance(name, bool) or name is None else f"a {type(name).__name__}"
            # YAML reads yes, no, on and off as truth values
            remedy = "Put the name into quotation marks." if isinstance(name, bool) else "Give a text."
            raise BadRecord(str(path), "names", f"the name of class {number} is {shown}", remedy)
        if not str(number).isdecimal():
            raise BadRecord(str(path), "names", f"{number!r} is not the number of a class", "Give 0: NAME, 1: NAME.")
        found[int(number)] = str(name)
    return found


def listed_names(*folders: Path) -> dict[int, str]:
    """Names of classes in a text file, one a line, as labelImg and Darknet write; empty without one."""
    files = [folder / name for folder in folders for name in _NAME_FILES]
    file = next((one for one in files if one.is_file()), None)
    lines = read_text(file).splitlines() if file else []
    return dict(enumerate(line.strip() for line in lines if line.strip()))


def is_name_file(name: str) -> bool:
    """Whether a file lists the names of classes, and labels no image."""
    return name in _NAME_FILES


def _load(path: Path) -> Any:
    text = read_text(path)
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark is not None else "all"
        problem = getattr(error, "problem", None) or type(error).__name__
        raise BadRecord(str(path), line, f"it is not YAML of texts and numbers ({problem})", "Fix it.") from error


def _describes_data(path: Path) -> bool:
    try:
        content = _load(path)
    except BadRecord:
        return False
    return isinstance(content, dict) and "train" in content and ("names" in content or "nc" in content)


def _texts(value: Any, path: Path, key: str) -> list[str]:
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(one, str) and "\0" not in one for one in values):
        raise BadRecord(str(path), key, "it is not a path or a list of paths", f"Give {key}: images/{key}.")
    return values


def _place(config: YoloConfig, key: str, name: str, base: Any) -> tuple[str, Path | None]:
    """A path of the file and where it is: below `path`, else below the file's folder; None where it does not exist.

    Roboflow writes `../train/images` for `train/images`, which Ultralytics corrects in the same way. `path` is often
    that of another machine.
    """
    here = config.path.parent
    roots = [here / base] if isinstance(base, str) and base else []
    shapes = [name, name.removeprefix("../")] if name.startswith("../") else [name]
    candidates = [root / shape for root in [*roots, here, config.root] for shape in shapes]
    there = [place for place in candidates if place.exists()]
    inside = [found for place in there if (found := below(config.root, place))]
    if there and not inside:
        raise BadRecord(str(config.path), key, f"{name} is outside {config.root}", MAY_LEAVE)
    return name, inside[0] if inside else None


def below(root: Path, path: Path) -> Path | None:
    """A path as one that begins with the root; None for one outside, also by links."""
    resolved = path.resolve()
    if not resolved.is_relative_to(root.resolve()):
        return None
    joined = Path(os.path.abspath(path))
    for base, one in ((Path(os.path.abspath(root)), joined), (root.resolve(), resolved)):
        if one.is_relative_to(base):
            return root / one.relative_to(base)
    return None
