"""Image features on disk, by image key: records of one size, each read without loading the others.

    <folder>/about.json          encoder and preprocessing of the features
    <folder>/<part>.features     records of tokens x width values
    <folder>/<part>.keys         the key of each record, written once the record is on the disk

Each writer writes a part of its own, so that any number of processes and runs can write at once. Of a part whose
writer was killed, the complete records are used.
"""

import json
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from openpali.data.images.lazy_image import KEY_BYTES

# part and record
Place = tuple[int, int]
# rows and columns of an image of any aspect ratio, behind its features
SHAPE = 2
SHAPE_BYTES = SHAPE * torch.int64.itemsize


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """The bytes of a tensor of any dtype, on any device."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


@dataclass(frozen=True)
class RecordForm:
    """Shape and dtype of the features of one image.

    Attributes:
        tokens: of an image; of one of any aspect ratio the most, padding included.
        width: of the image encoder.
        dtype: of the features.
        with_shape: whether rows and columns of the image's patches follow the features.
    """

    tokens: int
    width: int
    dtype: torch.dtype
    with_shape: bool = False

    @property
    def values(self) -> int:
        """Bytes of the features."""
        return self.tokens * self.width * self.dtype.itemsize

    @property
    def size(self) -> int:
        """Bytes of a record."""
        return self.values + SHAPE_BYTES * self.with_shape

    def describe(self) -> str:
        """Shape and dtype, for messages."""
        return f"{self.tokens} x {self.width} values in {str(self.dtype).removeprefix('torch.')}"


class FeatureStore:
    """The features of one image encoder with one preprocessing.

    Args:
        folder: for this encoder and this preprocessing alone.
        form: of every record.
        about: encoder and preprocessing, for about.json.
    """

    def __init__(self, folder: Path, form: RecordForm, about: dict[str, Any]):
        self.folder, self.form = folder, form
        self.parts: list[Path] = []
        self.records: list[np.ndarray] = []
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "about.json").exists():
            fresh = folder / f"about-{uuid.uuid4().hex}.new"
            fresh.write_text(json.dumps(about, indent=2, sort_keys=True) + "\n")
            fresh.replace(folder / "about.json")

    def open(self) -> dict[bytes, Place]:
        """Places of all features that are there now, by `image_key`."""
        self.parts = sorted(self.folder.glob("*.keys"))
        self.records, places = [], {}
        for number, path in enumerate(self.parts):
            keys, features = path.read_bytes(), path.with_suffix(".features")
            whole = min(len(keys) // KEY_BYTES, features.stat().st_size // self.form.size)
            shape = (whole, self.form.size)
            self.records.append(
                np.memmap(features, np.uint8, "r", shape=shape) if whole else np.zeros(shape, np.uint8)
            )
            for record in range(whole):
                places[keys[record * KEY_BYTES : (record + 1) * KEY_BYTES]] = number, record
        return places

    def read(self, places: Sequence[Place]) -> torch.Tensor:
        """float[len(places), tokens, width], copied out of the files."""
        batch = torch.empty(len(places), self.form.tokens, self.form.width, dtype=self.form.dtype)
        rows = batch.view(len(places), -1).view(torch.uint8).numpy()
        for row, (part, record) in zip(rows, places):
            row[:] = self.records[part][record][: self.form.values]
        return batch

    def read_shapes(self, places: Sequence[Place]) -> torch.Tensor:
        """int[len(places), 2], rows and columns of images of any aspect ratio."""
        shapes = torch.empty(len(places), SHAPE, dtype=torch.int64)
        for row, (part, record) in zip(shapes.view(torch.uint8).numpy(), places):
            row[:] = self.records[part][record][self.form.values :]
        return shapes

    @contextmanager
    def writer(self) -> Iterator["PartWriter"]:
        """Context with the writer of a new part, which is removed if nothing was written."""
        part = self.folder / uuid.uuid4().hex
        with part.with_suffix(".features").open("wb") as features, part.with_suffix(".keys").open("wb") as keys:
            writer = PartWriter(self.form, features, keys)
            yield writer
        if not writer.written:
            for path in (part.with_suffix(".keys"), part.with_suffix(".features")):
                path.unlink()


class PartWriter:
    """Adds records to the two files of a part.

    Attributes:
        written: number of records so far.
    """

    def __init__(self, form: RecordForm, features: BinaryIO, keys: BinaryIO):
        self.form, self.features, self.keys, self.written = form, features, keys, 0

    def add(self, keys: Sequence[bytes], features: torch.Tensor, shapes: torch.Tensor | None = None) -> None:
        """Write features, float[len(keys), tokens, width], and then their keys.

        Args:
            keys: of the images.
            features: of the images.
            shapes: of images of any aspect ratio int[len(keys), 2].

        Raises:
            ValueError: features of another shape.
            OSError: the disk is full.
        """
        expected = (len(keys), self.form.tokens, self.form.width)
        if tuple(features.shape) != expected:
            raise ValueError(f"features of shape {tuple(features.shape)} where {expected} was expected")
        records = [features.to(self.form.dtype).cpu().contiguous().flatten(1).view(torch.uint8)]
        if self.form.with_shape:
            records.append(torch.as_tensor(shapes, dtype=torch.int64).cpu().contiguous().view(torch.uint8))
        self.features.write(bytes_of(torch.cat(records, dim=1)))
        self.features.flush()
        # a key must never exist without its record, even after a power cut
        os.fsync(self.features.fileno())
        self.keys.write(b"".join(keys))
        self.keys.flush()
        self.written += len(keys)


def format_bytes(size: float) -> str:
    """A number of bytes in MB or GB."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.2f} MB"
