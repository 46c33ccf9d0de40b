"""Connected components by rounds of stars, and near copies by bands, against libraries and brute force."""

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from openpali.scripts.web.copies.components import both_ways, large_star, part_of, small_star, stars_within
from openpali.scripts.web.copies.image_hashes import ImageHashes
from openpali.scripts.web.copies.near_pairs import add_shard, add_thumbnails, band_rows, compared, near_pairs


def expected(pairs: np.ndarray) -> set[tuple[int, int]]:
    """The smallest number of the component of each number, by SciPy."""
    nodes, ends = np.unique(pairs, return_inverse=True)
    ends = ends.reshape(-1, 2)
    graph = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(len(nodes), len(nodes)))
    _, labels = connected_components(graph, directed=False)
    least = {label: int(nodes[labels == label].min()) for label in set(labels.tolist())}
    found = {(int(node), least[label]) for node, label in zip(nodes, labels.tolist())}
    return {(node, root) for node, root in found if node != root}


GRAPHS = {
    "a chain": np.stack([np.arange(1, 200), np.arange(199)], axis=1),
    "a chain in random order": np.random.default_rng(0).permutation(300)[
        np.stack([np.arange(1, 300), np.arange(299)], 1)
    ],
    "a star": np.stack([np.arange(1, 50), np.zeros(49, int)], axis=1),
    "random": np.random.default_rng(1).integers(0, 1000, (700, 2)),
    "large numbers": (np.random.default_rng(2).integers(0, 40, (60, 2)) << 32) + 7,
}


def rounds(pairs: np.ndarray, parts: int) -> tuple[np.ndarray, int]:
    """What `connected` does, without Ray: stars part by part, until nothing changes."""

    def star(pairs, function):
        parts_of = part_of(pairs[:, 0], parts)
        return np.unique(np.concatenate([function(pairs[parts_of == part]) for part in range(parts)]), axis=0)

    for count in range(1, 30):
        both = both_ways({"image": pairs[:, 0], "of": pairs[:, 1]})
        after = star(star(np.stack([both["image"], both["of"]], axis=1), large_star), small_star)
        if np.array_equal(after, pairs):
            return pairs, count
        pairs = after
    raise AssertionError("the rounds do not end")


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("graph", GRAPHS)
def test_stars_lead_to_the_smallest_of_each_component(graph, parts):
    pairs = GRAPHS[graph].astype(np.int64)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    found, count = rounds(pairs, parts)
    assert {tuple(map(int, pair)) for pair in found} == expected(pairs)
    # the logarithm of the longest chain, and one round to see that nothing changes
    assert count <= 10
    assert {tuple(map(int, pair)) for pair in stars_within(pairs)} == expected(pairs)


def test_nothing_has_no_components():
    assert stars_within(np.zeros((0, 2), np.int64)).shape == (0, 2)
    assert large_star(np.zeros((0, 2), np.int64)).shape == (0, 2)
    assert small_star(np.zeros((0, 2), np.int64)).shape == (0, 2)


def copies(seed: int, distance: int) -> ImageHashes:
    """Random hashes, a third of them a few flipped bits away from another one, some with another thumbnail."""
    rng = np.random.default_rng(seed)
    perceptual = rng.integers(0, 2**64, 400, np.uint64)
    thumbnails = rng.integers(0, 256, (400, 192)).astype(np.uint8)
    for at in range(150, 280):
        of = int(rng.integers(0, 150))
        bits = rng.choice(64, int(rng.integers(0, distance + 3)), replace=False)
        perceptual[at] = perceptual[of] ^ np.uint64(sum(1 << int(bit) for bit in bits))
        thumbnails[at] = thumbnails[of]
    # images of one colour have one hash, and thumbnails that differ
    perceptual[300:330] = 0
    thumbnails[300:330] = (np.arange(30) // 3 * 25)[:, None]
    order = rng.permutation(400)
    digests = [str(index) for index in range(400)]
    return ImageHashes(digests, digests, perceptual[order], thumbnails[order], np.arange(400))


def verified(pairs, images: ImageHashes) -> np.ndarray:
    """int64[m, 2] of the pairs whose thumbnails are alike; all images are of shard 0."""

    def read(place, numbers):
        return images.thumbnails[numbers]

    if not len(pairs["image"]):
        return np.zeros((0, 2), np.int64)
    later = add_thumbnails(add_shard(pairs, "image"), read)
    found = compared(add_shard(later, "of"), read)
    return np.stack([found["image"], found["of"]], axis=1)


@pytest.mark.parametrize("distance", [0, 6, 12])
@pytest.mark.parametrize("parts", [1, 5])
def test_bands_find_the_pairs_that_comparing_all_finds(distance, parts):
    images = copies(distance, distance)
    rows = band_rows(np.arange(400), images.perceptual, images.thumbnails, distance, parts)
    found = []
    for part in range(parts):
        own = rows["part"] == part
        found.append(near_pairs({name: column[own] for name, column in rows.items()}, distance))
    pairs = {name: np.concatenate([one[name] for one in found]) for name in ("image", "of", "same")}
    assert (images.perceptual[pairs["image"]] == images.perceptual[pairs["of"]])[pairs["same"] == 1].all()
    stars = verified(pairs, images)
    close = np.bitwise_count(images.perceptual[:, None] ^ images.perceptual[None]) <= distance
    alike = np.abs(images.thumbnails[:, None].astype(int) - images.thumbnails[None]).mean(-1) <= 16
    later, earlier = np.nonzero(np.tril(close & alike, -1))
    assert len(later) > 50
    assert expected(stars) == expected(np.stack([later, earlier], axis=1))
