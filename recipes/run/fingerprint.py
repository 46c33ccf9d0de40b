"""What a run is made of besides its configuration: hashes of its data and of the checkpoints that it starts from.

They belong to what decides whether the same command goes on: a configuration names files, and files are mended.
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
PLACES = ("path", "validation_path", "test_path", "instances", "folder", "dataset")
CHECKPOINTS = ("model", "vision_checkpoint", "text_checkpoint", "tokenizer", "codec")
# what is hashed itself, since no configuration of the run has it
SETTINGS = "settings"
OF_A_RUN = {"logs.jsonl", "fingerprints.json", "trainer_state.json"}
OF_A_MODEL = ("config.json", "tokenizer.json")
WEIGHTS = (".safetensors", ".bin", ".pt", ".npz", ".tar", ".tgz", ".gz", ".zst", ".bz2", ".xz")
ANNOTATIONS = (".json", ".jsonl", ".csv", ".tsv", ".txt", ".xml", ".yaml", ".yml", ".p", ".pkl", ".parquet", ".arrow")
IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".mp4", ".avi", ".webm", ".mkv")
# bytes of a large file that are read, in pieces spread over it
_PIECES, _PIECE = 64, 1 << 16


def fingerprints(inputs: Mapping[str, Any], run_folder: Path) -> dict[str, str]:
    """A hash of the content of each input that is a file or a folder, or names some.

    Args:
        inputs: by name: the specs of sources and tasks, folders of checkpoints.
        run_folder: of the run; what it wrote is no input.

    Returns:
        Hashes by name; inputs without a file of this machine have none.
    """
    found = {name: sorted(parts(name, value, run_folder)) for name, value in inputs.items()}
    return {name: hashed(repr(lines).encode()) for name, lines in found.items() if lines}


def parts(key: str, value: Any, run_folder: Path) -> Iterator[tuple[str, ...]]:
    """What there is to hash below a value: lines of texts."""
    if key == SETTINGS:
        yield (json.dumps(value, sort_keys=True, default=str),)
    elif isinstance(value, dict) and value.get("name") == "custom" and "path" in value:
        yield ("custom", own_content(value))
    elif isinstance(value, dict):
        for inner, item in value.items():
            yield from parts(str(inner), item, run_folder)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from parts(key, item, run_folder)
    elif isinstance(value, str) and key in CHECKPOINTS and Path(value).is_dir():
        # logs and older checkpoints lie beside the weights
        kept = [file for file in Path(value).iterdir() if file.suffix in WEIGHTS or file.name in OF_A_MODEL]
        yield from ((file.name, file_hash(file)) for file in kept if file.is_file())
    elif isinstance(value, str) and key in PLACES:
        for path in places(value):
            yield from content(path, run_folder)


def own_content(source: Mapping[str, Any]) -> str:
    """A hash of the records of custom data, their labels, outlines and images included."""
    known = {option.name for option in fields(CustomSpec)}
    try:
        found: CustomDataset = read_custom(
            custom_spec(**{key: value for key, value in source.items() if key in known})
        )
    except (ValueError, BadRecord, BadImage):
        # told where the data are read for training
        return ""
    lines = [
        [part, row.record, row.digest, packed(row), [[item.segmentation, item.crowd] for item in row.objects]]
        for part, rows in found.rows.items()
        for row in rows
    ]
    return hashed(json.dumps([lines, sorted(found.class_names.items())], default=str).encode())


def places(value: str) -> list[Path]:
    """Files and folders that a value names: one, those of a pattern, or tar shards."""
    if Path(value).exists():
        return [Path(value)]
    try:
        urls = find_shards(value)[0] if ".tar" in value else glob.glob(value)
    except (ValueError, OSError, BadRecord):
        return []
    return [Path(url) for url in sorted(urls) if Path(url).is_file()]


def content(path: Path, run_folder: Path) -> Iterator[tuple[str, str]]:
    """Names and hashes of a file, or of the files in a folder that are data; of images the sizes alone."""
    if path.is_file():
        yield path.name, file_hash(path)
        return
    for folder, folders, files in os.walk(path):
        # what this run or another one wrote there is no data
        if Path(folder) == run_folder or OF_A_RUN & set(files) or Path(folder).name == "feature_cache":
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
    """Of a file's content; of large weights and archives their size and pieces of them."""
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
