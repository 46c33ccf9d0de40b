"""Image features on disk, by what the image is: records of one size, which are read without loading the rest.

    <folder>/about.json          what the features are of
    <folder>/<part>.features     record after record, tokens x width values each
    <folder>/<part>.keys         the key of each record, written once the record itself is on the disk

Whoever adds features writes a part of its own, so that any number of processes and runs may do so at once. Of a part
whose writer was killed the records count that are whole.
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


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """The values of a tensor of any type, on any device, as they lie in memory."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


@dataclass(frozen=True)
class RecordForm:
    """Features of one image."""

    tokens: int
    width: int
    dtype: torch.dtype

    @property
    def size(self) -> int:
        """Bytes of a record."""
        return self.tokens * self.width * self.dtype.itemsize

    def describe(self) -> str:
        """For people."""
        return f"{self.tokens} x {self.width} values in {str(self.dtype).removeprefix('torch.')}"


class FeatureStore:
    """The features of one image encoder at one kind of preprocessing.

    Args:
        folder: of that encoder and that preprocessing alone.
        form: of every record in it.
        about: what they are of, noted for people.
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
        """Where the features of each image are, by `image_key`; of all that is there now."""
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
            row[:] = self.records[part][record]
        return batch

    @contextmanager
    def writer(self) -> Iterator["PartWriter"]:
        """A new part; it is removed again if nothing was written."""
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

    def add(self, keys: Sequence[bytes], features: torch.Tensor) -> None:
        """Write features, float[len(keys), tokens, width], and then their keys.

        Raises:
            ValueError: features of another shape.
            OSError: the disk is full.
        """
        expected = (len(keys), self.form.tokens, self.form.width)
        if tuple(features.shape) != expected:
            raise ValueError(f"features of shape {tuple(features.shape)} where {expected} was expected")
        self.features.write(bytes_of(features.to(self.form.dtype)))
        self.features.flush()
        # a key must never be there without its record, not even after a power cut
        os.fsync(self.features.fileno())
        self.keys.write(b"".join(keys))
        self.keys.flush()
        self.written += len(keys)


def readable(size: float) -> str:
    """A number of bytes for people."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.2f} MB"
