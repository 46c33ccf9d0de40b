"""Pairs of near copies among images of many shards: those whose hashes share a band meet in one group.

Hashes that differ in at most `distance` of 64 bits are equal in one of `distance` + 1 bands. Each image gives a row
for each band; Ray brings the rows of equal bands together, and no process holds more than its part of them.
"""

from typing import Any

import numpy as np

from openpali.scripts.shards.near_duplicates import MOST_DIFFERENCE, hash_pieces
from openpali.scripts.web.components import stars_within

SHARD_BITS = 32
"""An image's number: the place of its shard in the upper bits, that of the sample in its shard in the lower ones."""
_MIX = np.uint64(0x9E3779B97F4A7C15)
_AT_ONCE = 2_000_000


def band_rows(images: np.ndarray, perceptual: np.ndarray, thumbnails: np.ndarray, distance: int, parts: int) -> Any:
    """Rows for the group-by, `distance` + 1 for each image.

    Args:
        images: int64[n], their numbers.
        perceptual: uint64[n].
        thumbnails: uint8[n, t].
        distance: bits in which hashes of copies may differ.
        parts: groups among which the bands are divided.

    Returns:
        Columns of int64[n * bands], which Arrow sorts without copies to Python: `part`, `band` (of band and bits),
        `image`, `perceptual`, and `thumbnail_00` and so on, eight values each.
    """
    bands, parts_of = [], []
    for place, piece in enumerate(hash_pieces(distance)):
        # one bit pattern in two bands would be two groups
        mixed = ((perceptual & piece) ^ np.uint64(place)) * _MIX
        mixed ^= mixed >> np.uint64(29)
        mixed *= _MIX
        bands.append(mixed.view(np.int64))
        parts_of.append(((mixed >> np.uint64(33)) % np.uint64(parts)).astype(np.int64))
    times = len(bands)
    words = np.ascontiguousarray(thumbnails).view(np.int64)
    columns = {
        "part": np.concatenate(parts_of),
        "band": np.concatenate(bands),
        "image": np.tile(images, times),
        "perceptual": np.tile(perceptual.view(np.int64), times),
    }
    return columns | {f"thumbnail_{at:02d}": np.tile(words[:, at], times) for at in range(words.shape[1])}


def near_pairs(rows: dict[str, np.ndarray], distance: int) -> dict[str, np.ndarray]:
    """Near copies among the rows of one part: int64[m] `image` and `of`, a star for each set of them.

    Args:
        rows: columns of `band_rows`, all rows of a part.
        distance: bits in which hashes of copies may differ.
    """
    order = np.lexsort((rows["image"], rows["band"]))
    bands, images = rows["band"][order], rows["image"][order]
    perceptual = rows["perceptual"][order].view(np.uint64)
    names = sorted(name for name in rows if name.startswith("thumbnail_"))
    starts = np.flatnonzero(np.r_[True, bands[1:] != bands[:-1]]) if len(bands) else np.zeros(0, int)
    ends = np.r_[starts[1:], len(bands)] if len(bands) else starts
    found: list[np.ndarray] = []
    for start, end in zip(starts[ends - starts > 1].tolist(), ends[ends - starts > 1].tolist()):
        own = order[start:end]
        thumbnails = np.stack([rows[name][own] for name in names], axis=1).view(np.uint8)
        found.append(pairs_in_group(images[start:end], perceptual[start:end], thumbnails, distance))
    pairs = np.concatenate(found) if found else np.zeros((0, 2), np.int64)
    stars = stars_within(pairs)
    return {"image": stars[:, 0], "of": stars[:, 1]}


def pairs_in_group(images: np.ndarray, perceptual: np.ndarray, thumbnails: np.ndarray, distance: int) -> np.ndarray:
    """int64[m, 2], later and earlier image of each pair of near copies in a group that shares a band.

    Images with equal hash and thumbnail, such as those of one colour, are compared with the first of them alone.
    """
    if len(images) == 2:
        return (
            images[None, ::-1]
            if _near(perceptual[:1], thumbnails[:1], perceptual[1], thumbnails[1], distance)[0]
            else images[:0].reshape(0, 2)
        )
    looks = np.concatenate([perceptual[:, None].view(np.uint8).reshape(len(images), -1), thumbnails], axis=1)
    _, first, inverse = np.unique(looks, axis=0, return_index=True, return_inverse=True)
    same = np.flatnonzero(first[inverse] != np.arange(len(images)))
    pairs = [np.stack([images[same], images[first[inverse[same]]]], axis=1)]
    unique = np.sort(first)
    for place, index in enumerate(unique[1:].tolist(), 1):
        earlier = unique[:place]
        near = earlier[_near(perceptual[earlier], thumbnails[earlier], perceptual[index], thumbnails[index], distance)]
        pairs.append(np.stack([np.full(len(near), images[index]), images[near]], axis=1))
    return np.concatenate(pairs)


def _near(
    perceptual: np.ndarray, thumbnails: np.ndarray, other: Any, thumbnail: np.ndarray, distance: int
) -> np.ndarray:
    """bool[n]: whether each of n images is a near copy of another one."""
    close = np.bitwise_count(perceptual ^ other) <= distance
    if close.any():
        alike = np.abs(thumbnails[close].astype(np.int16) - thumbnail).mean(axis=-1) <= MOST_DIFFERENCE
        close[close] = alike
    return close
