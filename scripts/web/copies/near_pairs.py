"""Pairs of near copies among images of many shards: those whose hashes share a band meet in one group.

Hashes that differ in at most `distance` of 64 bits are equal in one of `distance` + 1 bands. Each image gives a row
for each band; Ray brings the rows of equal bands together, and no process holds more than its part of them. Thumbnails
stay in the tables of their shards; only those of pairs whose hashes are near are read and compared.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from openpali.scripts.web.copies.near_duplicates import MOST_DIFFERENCE, hash_pieces
from openpali.scripts.web.running.cluster import grouped, mapped

SHARD_BITS = 32
"""An image's number: the place of its shard in the upper bits, that of the sample in its shard in the lower ones."""
_MIX = np.uint64(0x9E3779B97F4A7C15)

Columns = dict[str, np.ndarray]
ReadThumbnails = Callable[[int, np.ndarray], np.ndarray]
"""From the place of a shard and int64[n] numbers of samples in it to uint8[n, t], their thumbnails."""


def band_rows(
    images: np.ndarray, perceptual: np.ndarray, thumbnails: np.ndarray, distance: int, parts: int
) -> Columns:
    """Rows for the group-by, `distance` + 1 for each image.

    Args:
        images: int64[n], their numbers.
        perceptual: uint64[n].
        thumbnails: uint8[n, t].
        distance: bits in which hashes of copies may differ.
        parts: groups among which the bands are divided.

    Returns:
        Columns of int64[n * bands]: `part`, `band` (its place and its bits, mixed), `image`, `perceptual`, and `look`,
        which is equal for images with equal hash and thumbnail.
    """
    pieces = list(enumerate(hash_pieces(distance)))
    # one bit pattern in two bands would be two groups
    bands = np.concatenate([mixed((perceptual & piece) ^ mixed(np.uint64(place))) for place, piece in pieces])
    words = np.ascontiguousarray(thumbnails).view(np.uint64)
    look = mixed(perceptual)
    for column in words.T:
        look = mixed(look ^ column)
    times = len(pieces)
    return {
        "part": ((bands >> np.uint64(33)) % np.uint64(parts)).astype(np.int64),
        "band": bands.view(np.int64),
        "image": np.tile(images, times),
        "perceptual": np.tile(perceptual.view(np.int64), times),
        "look": np.tile(look.view(np.int64), times),
    }


def mixed(bits: Any) -> Any:
    """uint64 whose bits all depend on all bits of the given ones; different ones stay different."""
    with np.errstate(over="ignore"):
        bits = (bits ^ (bits >> np.uint64(31))) * _MIX
        return (bits ^ (bits >> np.uint64(29))) * _MIX


def near_pairs(rows: Columns, distance: int) -> Columns:
    """Pairs of near hashes among the rows of one part.

    Args:
        rows: columns of `band_rows`, all rows of a part.
        distance: bits in which hashes of copies may differ.

    Returns:
        Columns of int64[m]: `image`, `of` (an earlier one), and `same`, 1 where the thumbnails are equal.
    """
    order = np.lexsort((rows["image"], rows["band"]))
    columns = [rows[name][order] for name in ("band", "image", "perceptual", "look")]
    bands = columns[0]
    starts = np.flatnonzero(np.r_[True, bands[1:] != bands[:-1]]) if len(bands) else np.zeros(0, int)
    ends = np.r_[starts[1:], len(bands)] if len(bands) else starts
    several = ends - starts > 1
    _, images, perceptual, look = columns
    groups = [slice(start, end) for start, end in zip(starts[several].tolist(), ends[several].tolist())]
    found = [pairs_in_group(images[own], perceptual[own], look[own], distance) for own in groups]
    pairs = np.concatenate([np.zeros((0, 3), np.int64), *found])
    # two images may share several bands
    pairs = np.unique(pairs, axis=0)
    return {"image": pairs[:, 0], "of": pairs[:, 1], "same": pairs[:, 2]}


def pairs_in_group(images: np.ndarray, perceptual: np.ndarray, look: np.ndarray, distance: int) -> np.ndarray:
    """int64[m, 3] of a group that shares a band: later and earlier image of each pair, and whether they look the same.

    Images that look the same, such as those of one colour, are compared with the first of them alone.
    """
    _, first, inverse = np.unique(look, return_index=True, return_inverse=True)
    same = np.flatnonzero(first[inverse] != np.arange(len(images)))
    pairs = [np.stack([images[same], images[first[inverse[same]]], np.ones(len(same), np.int64)], axis=1)]
    unique = np.sort(first)
    hashes = perceptual[unique].view(np.uint64)
    for place, index in enumerate(unique[1:].tolist(), 1):
        near = unique[:place][np.bitwise_count(hashes[:place] ^ hashes[place]) <= distance]
        zeros = np.zeros(len(near), np.int64)
        pairs.append(np.stack([np.full(len(near), images[index]), images[near], zeros], axis=1))
    return np.concatenate(pairs)


def alike_pairs(pairs: Any, read: ReadThumbnails, parts: int) -> Any:
    """Those of a Ray dataset of pairs whose thumbnails are alike.

    Args:
        pairs: with the columns of `near_pairs`.
        read: the thumbnails of a shard.
        parts: groups among which the pairs are divided.
    """
    later = grouped(mapped(pairs, partial(add_shard, of="image")), "shard", parts, partial(add_thumbnails, read=read))
    return grouped(mapped(later, partial(add_shard, of="of")), "shard", parts, partial(compared, read=read))


def add_shard(pairs: Columns, of: str) -> Columns:
    """Pairs with the place of the shard of one of their images."""
    return pairs | {"shard": pairs[of] >> SHARD_BITS}


def add_thumbnails(pairs: Columns, read: ReadThumbnails) -> Columns:
    """Pairs of one shard with the thumbnails of their later images, eight values in a column."""
    words = thumbnails_of(pairs, "image", read).view(np.int64)
    columns = {f"thumbnail_{at:02d}": words[:, at] for at in range(words.shape[1])}
    return {name: pairs[name] for name in ("image", "of", "same")} | columns


def compared(pairs: Columns, read: ReadThumbnails) -> Columns:
    """Pairs whose earlier images are of one shard: those whose thumbnails are alike."""
    names = sorted(name for name in pairs if name.startswith("thumbnail_"))
    later = np.stack([pairs[name] for name in names], axis=1).view(np.uint8)
    earlier = thumbnails_of(pairs, "of", read)
    alike = np.abs(later.astype(np.int16) - earlier).mean(axis=1) <= MOST_DIFFERENCE
    alike |= pairs["same"] == 1
    return {"image": pairs["image"][alike], "of": pairs["of"][alike]}


def thumbnails_of(pairs: Columns, name: str, read: ReadThumbnails) -> np.ndarray:
    """uint8[m, t] of one of the images of each pair, all of one shard."""
    numbers, places = np.unique(pairs[name] & np.int64((1 << SHARD_BITS) - 1), return_inverse=True)
    return np.ascontiguousarray(read(int(pairs["shard"][0]), numbers)[places])
