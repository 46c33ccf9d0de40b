"""Near-duplicates among images of tar shards and evaluation sets, by their hashes."""

import functools
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from openpali.scripts.shards.image_hashes import ImageHashes, read_hashes

MOST_DIFFERENCE = 16.0
"""Largest mean difference of the thumbnails of one image, in 0..255."""
_CELLS = 20_000_000


@dataclass(frozen=True)
class Duplicate:
    """An image that repeats another one.

    Attributes:
        index: of the image.
        of: index of the image that it repeats.
        distance: bits of 64 in which their perceptual hashes differ.
        kind: `same pixels` or `alike`.
    """

    index: int
    of: int
    distance: int
    kind: str


def duplicates_of(images: ImageHashes, others: ImageHashes, distance: int) -> list[Duplicate]:
    """Images that repeat one of the others, each with the nearest one, at most `distance` bits away."""
    exact = {digest: index for index, digest in reversed(list(enumerate(others.digests)))}
    found: list[Duplicate] = []
    step = max(1, _CELLS // max(1, len(others)))
    for start in range(0, len(images) if len(others) else 0, step):
        bits = images.perceptual[start : start + step, None] ^ others.perceptual[None]
        distances = np.bitwise_count(bits)
        for row in range(len(distances)):
            index = start + row
            if images.digests[index] in exact:
                found.append(Duplicate(index, exact[images.digests[index]], 0, "same pixels"))
                continue
            near = np.flatnonzero(distances[row] <= distance)
            near = near[np.argsort(distances[row][near], kind="stable")]
            near = near[are_alike(images.thumbnails[index], others.thumbnails[near])]
            if len(near):
                found.append(Duplicate(index, int(near[0]), int(distances[row][near[0]]), "alike"))
    return found


def are_alike(thumbnail: np.ndarray, others: np.ndarray) -> np.ndarray:
    """bool[n]: whether a thumbnail differs little from each of n others."""
    return np.abs(others.astype(np.int16) - thumbnail).mean(axis=-1) <= MOST_DIFFERENCE


def duplicates_within(images: ImageHashes, distance: int) -> list[Duplicate]:
    """Images that repeat an earlier one of the same set.

    Hashes that differ in at most `distance` bits are equal in one of `distance` + 1 pieces, so only images that share
    a piece are compared.
    """
    first: dict[str, int] = {}
    found: dict[int, Duplicate] = {}
    for index, digest in enumerate(images.digests):
        if first.setdefault(digest, index) != index:
            found[index] = Duplicate(index, first[digest], 0, "same pixels")
    left = np.array([index for index in range(len(images)) if index not in found], int)
    for piece in hash_pieces(distance):
        groups: dict[int, list[int]] = defaultdict(list)
        for index, value in zip(left.tolist(), (images.perceptual[left] & piece).tolist()):
            groups[value].append(index)
        for group in groups.values():
            for place, index in enumerate(group[1:], 1):
                earlier = np.array(group[:place])
                distances = np.bitwise_count(images.perceptual[earlier] ^ images.perceptual[index])
                near = earlier[distances <= distance]
                near = near[are_alike(images.thumbnails[index], images.thumbnails[near])]
                if len(near) and (index not in found or near[0] < found[index].of):
                    bits = int(np.bitwise_count(images.perceptual[near[0]] ^ images.perceptual[index]))
                    found[index] = Duplicate(index, int(near[0]), bits, "alike")
    return [found[index] for index in sorted(found)]


def hash_pieces(distance: int) -> list[np.uint64]:
    """Bit masks that divide the 64 bits into `distance` + 1 pieces of nearly the same size."""
    edges = [64 * piece // (distance + 1) for piece in range(distance + 2)]
    return [np.uint64((1 << end) - (1 << start)) for start, end in zip(edges, edges[1:])]


@functools.cache
def evaluation_hashes(tables: tuple[str, ...]) -> ImageHashes:
    """Hashes of all evaluation sets, read once in each process."""
    return read_hashes([Path(path) for path in tables])


@dataclass(frozen=True)
class FindDuplicates:
    """Compares the table of a shard, `path` of a row, with those of the evaluation sets."""

    tables: tuple[str, ...]
    distance: int

    def __call__(self, row: dict[str, Any], process: int | None) -> dict[str, Any]:
        """Samples that repeat an image of an evaluation set, as JSON."""
        images, others = read_hashes([Path(row["path"])]), evaluation_hashes(self.tables)
        duplicates = duplicates_of(images, others, self.distance)
        return {"removed": json.dumps([removal_record(duplicate, images, others) for duplicate in duplicates])}


def removal_record(duplicate: Duplicate, images: ImageHashes, others: ImageHashes) -> dict[str, Any]:
    """A line of removed.jsonl, and the number of the sample in its shard."""
    row: dict[str, Any] = {"sample": images.names[duplicate.index], "of": others.names[duplicate.of]}
    row |= {"kind": duplicate.kind, "distance": duplicate.distance}
    return row | {"number": int(images.numbers[duplicate.index])}
