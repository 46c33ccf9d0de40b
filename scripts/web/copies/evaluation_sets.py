"""Hashes of the images of evaluation sets: folders, tar shards or sources, in parts that workers hash side by side."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from PIL import Image

from openpali.data.files.tar_shards import read_samples
from openpali.data.images.open_image import BadImage, load_image
from openpali.data.records import BadRecord, SkipLog
from openpali.data.sources import Source, load_source
from openpali.data.sources.webdataset import IMAGES, WebDataset, images_of
from openpali.scripts.web.copies.image_hashes import write_hashes

_AT_ONCE = 1000


@dataclass(frozen=True)
class SetPart:
    """A part of an evaluation set.

    Attributes:
        table: file of its hashes.
        images: folder of image files, address of a shard, or options of a source.
        shard: name of the shard; empty for a folder or a source.
        places: of its images in the folder or the source.
    """

    table: Path
    images: str | dict[str, Any]
    shard: str = ""
    places: range = range(0)


def set_parts(given: str, tables: Path) -> list[SetPart]:
    """The parts of a folder, of tar shards, or of a source as JSON such as `{"name": "coco", ...}`.

    Raises:
        ValueError: there are no images.
    """
    spec: Any = json.loads(given) if given.lstrip().startswith("{") else given
    if isinstance(spec, str) and (".tar" in spec or not Path(spec).is_dir()):
        spec = {"name": "webdataset", "path": spec}
    items = folder_images(spec) if isinstance(spec, str) else load_source(spec)
    folder = tables / hashlib.sha256(json.dumps(spec).encode()).hexdigest()[:12]
    if isinstance(items, WebDataset):
        return [SetPart(folder / f"{name}.parquet", url, name) for url, name in zip(items.urls, items.names)]
    every = range(len(items))
    return [
        SetPart(folder / f"{start}.parquet", spec, places=every[start : start + _AT_ONCE])
        for start in every[::_AT_ONCE]
    ]


def hash_part(row: dict[str, Any], parts: Sequence[SetPart], skip_log: Path) -> dict[str, Any]:
    """Write the table of one part; images that cannot be used are listed in `skip_log`."""
    part, log = parts[int(row["shard"])], SkipLog(skip_log)
    write_hashes(part.table, shard_images(part, log) if part.shard else set_images(part, log))
    return row


def shard_images(part: SetPart, log: SkipLog) -> Iterator[tuple[int, str, Image.Image]]:
    """Number, name and image of every sample of a shard; texts are ignored."""
    for sample in read_samples(cast(str, part.images), part.shard):
        try:
            for image in _images_in(images_of(sample)):
                yield sample.place.number, f"{part.shard}:{sample.key}", image
        except BadRecord as bad:
            log.add(bad)


def set_images(part: SetPart, log: SkipLog) -> Iterator[tuple[int, str, Image.Image]]:
    """Number, name and image of a folder's or a source's records."""
    items = folder_images(part.images) if isinstance(part.images, str) else load_source(part.images)
    for number in part.places:
        try:
            if isinstance(items, list):
                yield number, str(items[number]), load_image(items[number])
                continue
            record = cast(Source, items)[number]
            for image in _images_in(record):
                yield number, record["id"], image
        except (BadRecord, BadImage) as bad:
            log.add(bad if isinstance(bad, BadRecord) else BadRecord(str(part.images), number, str(bad)))


def _images_in(record: dict[str, Any]) -> list[Image.Image]:
    """The image or images of a record."""
    return [record["image"]] if "image" in record else list(record["images"])


def folder_images(folder: str) -> list[Path]:
    """Image files under a folder, in a fixed order.

    Raises:
        ValueError: there are none.
    """
    endings = {f".{ending}" for ending in IMAGES}
    found = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in endings)
    if not found:
        raise ValueError(f"there are no images under {folder}")
    return found
