"""Hashes that identify duplicates of an image: a digest of its pixels, a perceptual hash, and a thumbnail.

Perceptual hashes (ImageHash's pHash) of an image and of its resized or compressed duplicate differ in few of 64 bits.
All images of one colour have the same hash, so the thumbnails must be alike as well.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import pyarrow
from PIL import Image
from pyarrow import parquet

from openpali.scripts.web.running.files import written_aside

THUMBNAIL = 8


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
    with written_aside(path) as aside:
        parquet.write_table(pyarrow.table(columns), aside)


def read_hashes(paths: list[Path]) -> ImageHashes:
    """The hashes in several files of `write_hashes`, joined."""
    tables = [parquet.read_table(path).to_pydict() for path in paths]
    joined: dict[str, list] = {key: [x for table in tables for x in table[key]] for key in tables[0]} if tables else {}
    texts = {key: b"".join(bytes.fromhex(str(x)) for x in joined.get(key, [])) for key in ("perceptual", "thumbnail")}
    return ImageHashes(
        [str(name) for name in joined.get("name", [])],
        [str(digest) for digest in joined.get("digest", [])],
        np.frombuffer(texts["perceptual"], ">u8").astype(np.uint64),
        np.frombuffer(texts["thumbnail"], np.uint8).reshape(-1, THUMBNAIL * THUMBNAIL * 3),
        np.asarray(joined.get("number", []), int),
    )
