"""Which images repeat others, by their hashes."""

import functools
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from openpali.scripts.shards.image_hashes import Hashes, read_hashes

MOST_DIFFERENCE = 16.0
"""Mean difference of two thumbnails' values in 0..255 beyond which they are not of the same image."""
_CELLS = 20_000_000


@dataclass(frozen=True)
class Copy:
    """An image that repeats another one, and in how many bits of 64 their hashes differ."""

    index: int
    of: int
    distance: int
    kind: str


def duplicates_of(images: Hashes, others: Hashes, most: int) -> list[Copy]:
    """For each of the images that repeats some of the others, the one that it is nearest to."""
    exact = {digest: index for index, digest in reversed(list(enumerate(others.digests)))}
    found: list[Copy] = []
    step = max(1, _CELLS // max(1, len(others)))
    for start in range(0, len(images) if len(others) else 0, step):
        bits = images.perceptual[start : start + step, None] ^ others.perceptual[None]
        distances = np.bitwise_count(bits)
        for row in range(len(distances)):
            index = start + row
            if images.digests[index] in exact:
                found.append(Copy(index, exact[images.digests[index]], 0, "same pixels"))
                continue
            near = np.flatnonzero(distances[row] <= most)
            near = near[np.argsort(distances[row][near], kind="stable")]
            near = near[alike(images.thumbnails[index], others.thumbnails[near])]
            if len(near):
                found.append(Copy(index, int(near[0]), int(distances[row][near[0]]), "alike"))
    return found


def alike(thumbnail: np.ndarray, others: np.ndarray) -> np.ndarray:
    """bool[n]: whether the mean difference of a thumbnail and each of n others is small."""
    return np.abs(others.astype(np.int16) - thumbnail).mean(axis=-1) <= MOST_DIFFERENCE


def duplicates_within(images: Hashes, most: int) -> list[Copy]:
    """ImageFolder that repeat an earlier one of the same set.

    Two hashes that differ in at most `most` bits are equal in one of `most` + 1 pieces: only images that share a
    piece are compared, and not all with all.
    """
    first: dict[str, int] = {}
    found: dict[int, Copy] = {}
    for index, digest in enumerate(images.digests):
        if first.setdefault(digest, index) != index:
            found[index] = Copy(index, first[digest], 0, "same pixels")
    left = np.array([index for index in range(len(images)) if index not in found], int)
    for piece in pieces(most):
        groups: dict[int, list[int]] = defaultdict(list)
        for index, value in zip(left.tolist(), (images.perceptual[left] & piece).tolist()):
            groups[value].append(index)
        for group in groups.values():
            for place, index in enumerate(group[1:], 1):
                earlier = np.array(group[:place])
                distances = np.bitwise_count(images.perceptual[earlier] ^ images.perceptual[index])
                near = earlier[distances <= most]
                near = near[alike(images.thumbnails[index], images.thumbnails[near])]
                if len(near) and (index not in found or near[0] < found[index].of):
                    distance = int(np.bitwise_count(images.perceptual[near[0]] ^ images.perceptual[index]))
                    found[index] = Copy(index, int(near[0]), distance, "alike")
    return [found[index] for index in sorted(found)]


def pieces(most: int) -> list[np.uint64]:
    """Masks of the 64 bits in `most` + 1 pieces of nearly the same size."""
    edges = [64 * piece // (most + 1) for piece in range(most + 2)]
    return [np.uint64((1 << end) - (1 << start)) for start, end in zip(edges, edges[1:])]


@functools.cache
def hashes_of(tables: tuple[str, ...]) -> Hashes:
    """Those of all evaluation sets, once in each process."""
    return read_hashes([Path(path) for path in tables])


@dataclass(frozen=True)
class FindDuplicates:
    """Compares the table of a shard, in `path`, with those of the evaluation sets."""

    tables: tuple[str, ...]
    distance: int

    def __call__(self, row: dict[str, Any], process: int | None) -> dict[str, Any]:
        """Names and numbers of samples that repeat an image of an evaluation set."""
        images, others = read_hashes([Path(row["path"])]), hashes_of(self.tables)
        copies = duplicates_of(images, others, self.distance)
        return {"removed": json.dumps([describe(copy, images, others) for copy in copies])}


def describe(copy: Copy, images: Hashes, others: Hashes) -> dict[str, Any]:
    """A line of removed.jsonl, and the number of the sample in its shard."""
    row: dict[str, Any] = {"sample": images.names[copy.index], "of": others.names[copy.of]}
    row |= {"kind": copy.kind, "distance": copy.distance}
    return row | {"number": int(images.numbers[copy.index])}
