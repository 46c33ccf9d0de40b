"""Connected components of pairs, on Ray: large-star and small-star rounds (Kiveris et al. 2014).

Each round groups the pairs by one of their ends, so no process holds all of them. After few rounds every pair leads
straight to the smallest number of its component.
"""

from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from openpali.scripts.web.running.cluster import grouped, mapped

MOST_ROUNDS = 60
_MIX = np.uint64(0x9E3779B97F4A7C15)


def stars_within(pairs: np.ndarray) -> np.ndarray:
    """int64[m, 2] for int64[n, 2]: each number but the smallest of its component, and the smallest one."""
    if not len(pairs):
        return pairs.reshape(0, 2)
    nodes, ends = np.unique(pairs, return_inverse=True)
    ends = ends.reshape(-1, 2)
    graph = coo_array((np.ones(len(ends), np.int8), (ends[:, 0], ends[:, 1])), shape=(len(nodes), len(nodes)))
    _, labels = connected_components(graph, directed=False)
    smallest = np.full(labels.max() + 1, np.iinfo(np.int64).max)
    np.minimum.at(smallest, labels, nodes)
    roots = smallest[labels]
    inner = nodes != roots
    return np.stack([nodes[inner], roots[inner]], axis=1)


def large_star(pairs: np.ndarray) -> np.ndarray:
    """Connect each larger neighbour of a number with the smallest of the number and its neighbours.

    Args:
        pairs: int64[n, 2], number and neighbour, all of some numbers.
    """
    nodes, starts, pairs = _grouped(pairs)
    least = np.minimum(np.minimum.reduceat(pairs[:, 1], starts), nodes) if len(pairs) else pairs[:, 0]
    counts = np.diff(np.r_[starts, len(pairs)])
    least = np.repeat(least, counts)
    larger = pairs[:, 1] > pairs[:, 0]
    return np.stack([pairs[larger, 1], least[larger]], axis=1)


def small_star(pairs: np.ndarray) -> np.ndarray:
    """Connect a number and its smaller neighbours with the smallest of these.

    Args:
        pairs: int64[n, 2], number and smaller neighbour, all of some numbers.
    """
    nodes, starts, pairs = _grouped(pairs)
    if not len(pairs):
        return pairs
    least = np.minimum.reduceat(pairs[:, 1], starts)
    others = np.stack([pairs[:, 1], np.repeat(least, np.diff(np.r_[starts, len(pairs)]))], axis=1)
    found = np.concatenate([np.stack([nodes, least], axis=1), others[others[:, 0] != others[:, 1]]])
    return np.unique(found, axis=0)


def _grouped(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The numbers, where the pairs of each begin, and the pairs in their order, each once."""
    pairs = np.unique(pairs.reshape(-1, 2), axis=0)
    starts = np.flatnonzero(np.r_[True, pairs[1:, 0] != pairs[:-1, 0]]) if len(pairs) else np.zeros(0, int)
    return pairs[starts, 0], starts, pairs


def connected(pairs: Any, parts: int) -> Any:
    """Stars of the components of a dataset of pairs.

    Args:
        pairs: Ray dataset with int64 `image` and `of`.
        parts: groups among which the numbers are divided.

    Returns:
        The same, where each `of` is the smallest number of its component, and each `image` is there once.

    Raises:
        RuntimeError: the rounds do not end.
    """
    before = None
    for _ in range(MOST_ROUNDS):
        both = mapped(pairs, both_ways)
        large = _star(both, large_star, parts)
        pairs = _star(large, small_star, parts).materialize()
        after = checksum(pairs)
        if after == before:
            return pairs
        before = after
    raise RuntimeError(f"components are not found after {MOST_ROUNDS} rounds")


def _star(pairs: Any, star: Any, parts: int) -> Any:
    """A dataset of pairs, grouped by their first number, through `large_star` or `small_star`."""

    def divide(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return batch | {"part": part_of(batch["image"], parts)}

    def apply(group: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = star(np.stack([group["image"], group["of"]], axis=1))
        return {"image": found[:, 0], "of": found[:, 1]}

    return grouped(mapped(pairs, divide), "part", parts, apply)


def both_ways(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Each pair, and the pair turned around."""
    image, of = batch["image"], batch["of"]
    return {"image": np.concatenate([image, of]), "of": np.concatenate([of, image])}


def part_of(numbers: np.ndarray, parts: int) -> np.ndarray:
    """int64[n]: which of the parts each number belongs to."""
    mixed = numbers.astype(np.int64).view(np.uint64) * _MIX
    return ((mixed >> np.uint64(33)) % np.uint64(parts)).astype(np.int64)


def checksum(pairs: Any) -> tuple[int, int]:
    """Number of pairs, and a sum over them that does not depend on their order."""

    def add(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        image, of = (batch[name].astype(np.int64).view(np.uint64) for name in ("image", "of"))
        mixed = (image * _MIX) ^ (of + _MIX)
        mixed = (mixed ^ (mixed >> np.uint64(31))) * _MIX
        # of 40 bits each, so that the sums of the parts are exact
        return {"count": np.array([len(image)]), "sum": np.array([int((mixed >> np.uint64(24)).sum()) % 2**40])}

    rows = list(mapped(pairs, add).iter_rows())
    return sum(int(row["count"]) for row in rows), sum(int(row["sum"]) for row in rows) % 2**40
