"""Fingerprints of a run's inputs: hashes of its data and of the checkpoints that it starts from.

A configuration names files whose content may change. A run resumes only where their fingerprints are the same.
"""

import glob
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import fields
from hashlib import blake2b
from pathlib import Path
from typing import Any

from openpali.data.custom.dataset import CustomDataset, CustomSpec, custom_spec, packed, read_custom
from openpali.data.files.shard_files import find_shards
from openpali.data.images.open_image import BadImage
from openpali.data.records import BadRecord

# options whose values are files or folders
PATH_KEYS = ("path", "validation_path", "test_path", "instances", "folder", "dataset")
CHECKPOINT_KEYS = ("model", "vision_checkpoint", "text_checkpoint", "tokenizer", "codec")
# a value that is hashed itself, since it is not in the configuration of the run
SETTINGS = "settings"
RUN_FILES = {"logs.jsonl", "fingerprints.json", "trainer_state.json"}
MODEL_FILES = ("config.json", "tokenizer.json")
WEIGHTS = (".safetensors", ".bin", ".pt", ".npz", ".tar", ".tgz", ".gz", ".zst", ".bz2", ".xz")
ANNOTATIONS = (".json", ".jsonl", ".csv", ".tsv", ".txt", ".xml", ".yaml", ".yml", ".p", ".pkl", ".parquet", ".arrow")
IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".mp4", ".avi", ".webm", ".mkv")
# a large file is hashed in pieces of so many bytes, evenly spread
_PIECES, _PIECE = 64, 1 << 16


def fingerprints(inputs: Mapping[str, Any], run_folder: Path) -> dict[str, str]:
    """A hash of the content of each input that is a file or a folder, or names some.

    Args:
        inputs: by name: the specs of sources and tasks, folders of checkpoints.
        run_folder: of the run; its own files are not inputs.

    Returns:
        Hashes by name; inputs without a file on this machine have none.
    """
    found = {name: sorted(lines_to_hash(name, value, run_folder)) for name, value in inputs.items()}
    return {name: hashed(repr(lines).encode()) for name, lines in found.items() if lines}


def lines_to_hash(key: str, value: Any, run_folder: Path) -> Iterator[tuple[str, ...]]:
    """The texts to hash for a value: names and hashes of the files below it."""
    if key == SETTINGS:
        yield (json.dumps(value, sort_keys=True, default=str),)
    elif isinstance(value, dict) and value.get("name") == "custom" and "path" in value:
        yield ("custom", custom_content(value))
    elif isinstance(value, dict):
        for inner, item in value.items():
            yield from lines_to_hash(str(inner), item, run_folder)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from lines_to_hash(key, item, run_folder)
    elif isinstance(value, str) and key in CHECKPOINT_KEYS and Path(value).is_dir():
        # logs and older checkpoints lie beside the weights
        kept = [file for file in Path(value).iterdir() if file.suffix in WEIGHTS or file.name in MODEL_FILES]
        yield from ((file.name, file_hash(file)) for file in kept if file.is_file())
    elif isinstance(value, str) and key in PATH_KEYS:
        for path in matching_files(value):
            yield from file_hashes(path, run_folder)


def custom_content(source: Mapping[str, Any]) -> str:
    """A hash of the records of custom data, with their labels, polygons and images."""
    known = {option.name for option in fields(CustomSpec)}
    try:
        found: CustomDataset = read_custom(
            custom_spec(**{key: value for key, value in source.items() if key in known})
        )
    except (ValueError, BadRecord, BadImage):
        # raised where the data are loaded for training
        return ""
    lines = [
        [split, row.record, row.digest, packed(row), [[item.segmentation, item.crowd] for item in row.objects]]
        for split, rows in found.rows.items()
        for row in rows
    ]
    return hashed(json.dumps([lines, sorted(found.class_names.items())], default=str).encode())


def matching_files(value: str) -> list[Path]:
    """Files and folders that a value names: one path, a pattern, or tar shards."""
    if Path(value).exists():
        return [Path(value)]
    try:
        urls = find_shards(value)[0] if ".tar" in value else glob.glob(value)
    except (ValueError, OSError, BadRecord):
        return []
    return [Path(url) for url in sorted(urls) if Path(url).is_file()]


def file_hashes(path: Path, run_folder: Path) -> Iterator[tuple[str, str]]:
    """Names and hashes of a file, or of the data files in a folder; the sizes alone of images."""
    if path.is_file():
        yield path.name, file_hash(path)
        return
    for folder, folders, files in os.walk(path):
        # files that a run wrote are not data
        if Path(folder) == run_folder or RUN_FILES & set(files) or Path(folder).name == "feature_cache":
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            file, ending = Path(folder, name), Path(name).suffix.lower()
            if ending in IMAGES and file.is_file():
                yield str(file.relative_to(path)), str(file.stat().st_size)
            elif ending in WEIGHTS + ANNOTATIONS and file.is_file():
                yield str(file.relative_to(path)), file_hash(file)


def file_hash(path: Path) -> str:
    """Hash of a file's content; of the size and some pieces of large weights and archives."""
    digest, size = blake2b(digest_size=16), path.stat().st_size
    with path.open("rb") as file:
        if path.suffix.lower() not in WEIGHTS or size <= _PIECES * _PIECE:
            while piece := file.read(1 << 22):
                digest.update(piece)
        else:
            digest.update(str(size).encode())
            for number in range(_PIECES):
                file.seek(number * (size - _PIECE) // (_PIECES - 1))
                digest.update(file.read(_PIECE))
    return digest.hexdigest()


def hashed(data: bytes) -> str:
    """A short hash."""
    return blake2b(data, digest_size=16).hexdigest()
