"""Near-duplicates of the images of evaluation sets, by their hashes."""

import functools
from dataclasses import dataclass
from pathlib import Path

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


def hash_pieces(distance: int) -> list[np.uint64]:
    """Bit masks that divide the 64 bits into `distance` + 1 pieces of nearly the same size."""
    edges = [64 * piece // (distance + 1) for piece in range(distance + 2)]
    return [np.uint64((1 << end) - (1 << start)) for start, end in zip(edges, edges[1:])]


@functools.cache
def evaluation_hashes(tables: tuple[str, ...]) -> ImageHashes:
    """Hashes of all evaluation sets, read once in each process."""
    return read_hashes([Path(path) for path in tables])
