"""Hashes that identify duplicates of an image: a digest of its pixels, a perceptual hash, and a thumbnail.

Perceptual hashes (ImageHash's pHash) of an image and of its resized or compressed duplicate differ in few of 64 bits.
All images of one colour have the same hash, so the thumbnails must be alike as well.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import imagehash
import numpy as np
from PIL import Image

from openpali.data.files.tar_shards import read_samples
from openpali.data.images.open_image import BadImage, load_image
from openpali.data.records import BadRecord, SkipLog
from openpali.data.sources import Source, load_source
from openpali.data.sources.webdataset import IMAGES, WebDataset, images_of
from openpali.scripts.web.running.files import read_table, write_table

THUMBNAIL = 8
_AT_ONCE = 1000


@dataclass(frozen=True)
class ImageHashes:
    """Hashes of n images.

    Attributes:
        names: n names: shard and key, or the id of a record.
        digests: n strings, equal for equal pixels.
        perceptual: uint64[n].
        thumbnails: uint8[n, THUMBNAIL * THUMBNAIL * 3] in 0..255.
        numbers: int[n], places of the samples in their shard.
    """

    names: list[str]
    digests: list[str]
    perceptual: np.ndarray
    thumbnails: np.ndarray
    numbers: np.ndarray

    def __len__(self) -> int:
        return len(self.names)


def hash_image(image: Image.Image) -> dict[str, Any]:
    """Digest, perceptual hash and thumbnail of an RGB image."""
    digest = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
    bits = imagehash.phash(image).hash.ravel()
    small = image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    # as hexadecimal text, since not all parquet readers know unsigned 64-bit integers
    return {"digest": digest, "perceptual": np.packbits(bits).tobytes().hex(), "thumbnail": small.tobytes().hex()}


def write_hashes(path: Path, images: Iterator[tuple[int, str, Image.Image]]) -> None:
    """Write a table of number, name and hashes of each image."""
    columns: dict[str, list] = {key: [] for key in ("number", "name", "digest", "perceptual", "thumbnail")}
    for number, name, image in images:
        for key, value in ({"number": number, "name": name} | hash_image(image)).items():
            columns[key].append(value)
    write_table(path, columns)


def read_hashes(paths: list[Path]) -> ImageHashes:
    """The hashes in several files of `write_hashes`, joined."""
    tables = [read_table(path) for path in paths]
    joined: dict[str, list] = {key: [x for table in tables for x in table[key]] for key in tables[0]} if tables else {}
    texts = {key: b"".join(bytes.fromhex(str(x)) for x in joined.get(key, [])) for key in ("perceptual", "thumbnail")}
    return ImageHashes(
        [str(name) for name in joined.get("name", [])],
        [str(digest) for digest in joined.get("digest", [])],
        np.frombuffer(texts["perceptual"], ">u8").astype(np.uint64),
        np.frombuffer(texts["thumbnail"], np.uint8).reshape(-1, THUMBNAIL * THUMBNAIL * 3),
        np.asarray(joined.get("number", []), int),
    )


@dataclass(frozen=True)
class HashImages:
    """Hashes the images of a row: of a shard (`url`, `name`), or `start` to `stop` of the set `spec`.

    Attributes:
        skip_log: file that lists images that cannot be used.
    """

    skip_log: str

    def __call__(self, row: dict[str, Any], process: int | None) -> dict[str, Any]:
        """Write the table of a row to its `path`, unless it exists."""
        path = Path(row["path"])
        if not path.exists():
            write_hashes(path, self.of_shard(row["url"], row["name"]) if row["url"] else self.of_set(row))
        return {"path": row["path"]}

    def of_shard(self, url: str, name: str) -> Iterator[tuple[int, str, Image.Image]]:
        """Every image of a shard; texts are ignored."""
        log = SkipLog(self.skip_log)
        for sample in read_samples(url, name):
            try:
                for image in _images_in(images_of(sample)):
                    yield sample.place.number, f"{name}:{sample.key}", image
            except BadRecord as bad:
                log.add(bad)

    def of_set(self, row: dict[str, Any]) -> Iterator[tuple[int, str, Image.Image]]:
        """Images of a folder or of a source."""
        log, spec = SkipLog(self.skip_log), json.loads(row["spec"])
        items = folder_images(spec) if isinstance(spec, str) else load_source(spec)
        for number in range(row["start"], row["stop"]):
            try:
                if isinstance(items, list):
                    yield number, str(items[number]), load_image(items[number])
                    continue
                record = cast(Source, items)[number]
                for image in _images_in(record):
                    yield number, record["id"], image
            except (BadRecord, BadImage) as bad:
                log.add(bad if isinstance(bad, BadRecord) else BadRecord(str(spec), number, str(bad)))


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


def set_rows(given: str, tables: Path) -> list[dict[str, Any]]:
    """Rows for `HashImages` of a folder, of tar shards, or of a source as JSON such as `{"name": "coco", ...}`."""
    spec: Any = json.loads(given) if given.lstrip().startswith("{") else given
    if isinstance(spec, str) and (".tar" in spec or not Path(spec).is_dir()):
        spec = {"name": "webdataset", "path": spec}
    items = folder_images(spec) if isinstance(spec, str) else load_source(spec)
    name = hashlib.sha256(json.dumps(spec).encode()).hexdigest()[:12]
    if isinstance(items, WebDataset):
        pairs = zip(items.urls, items.names)
        return [shard_row(url, own, tables / name / f"{own}.parquet") for url, own in pairs]
    total, rows = len(items), []
    for start in range(0, total, _AT_ONCE):
        row = {"spec": json.dumps(spec), "start": start, "stop": min(start + _AT_ONCE, total)}
        rows.append(shard_row("", "", tables / name / f"{start}.parquet") | row)
    return rows


def shard_row(url: str, name: str, path: Path) -> dict[str, Any]:
    """A row for `HashImages`; all rows have the same keys."""
    return {"url": url, "name": name, "spec": "", "start": 0, "stop": 0, "path": str(path)}
