"""Noise boxes behind the true ones of a detection target (Pix2Seq, arXiv 2109.10852, section 2.3).

A model that learns to stop after the last true box stops too early. With noise boxes the target always has the same
number of boxes: the true ones first, then boxes with the label `noise`. Their location tokens have no loss, only their
labels have; so the model goes on, finds more boxes, and learns to tell which are on nothing.
"""

import random
from collections.abc import Sequence

from openpali.data.example import Box
from openpali.modeling.location_tokens import LOCATION_BINS, NOISE

SHIFT, SCALE = 0.5, (0.5, 1.5)  # of a true box, in its sides


def noise_boxes(true: Sequence[Box], count: int, rng: random.Random) -> list[Box]:
    """Boxes on no object: half of them random, half true ones that are shifted and scaled; all where there is none."""
    return [
        jittered_box(rng.choice(true), rng) if true and rng.random() < 0.5 else random_box(rng) for _ in range(count)
    ]


def random_box(rng: random.Random) -> Box:
    """A box anywhere, of at least a token's step."""
    (x0, x1), (y0, y1) = random_span(rng), random_span(rng)
    return Box(x0, y0, x1, y1, NOISE)


def random_span(rng: random.Random) -> tuple[float, float]:
    """Two different places in [0, 1], in order."""
    low, high = sorted(rng.sample(range(LOCATION_BINS), 2))
    return low / (LOCATION_BINS - 1), high / (LOCATION_BINS - 1)


def jittered_box(box: Box, rng: random.Random) -> Box:
    """A box shifted and scaled, within the image; a random one where nothing is left of it."""
    spans = []
    for low, high in ((box.x0, box.x1), (box.y0, box.y1)):
        side, middle = high - low, (low + high) / 2 + rng.uniform(-SHIFT, SHIFT) * (high - low)
        half = side * rng.uniform(*SCALE) / 2
        spans.append((max(middle - half, 0.0), min(middle + half, 1.0)))
    if any(high - low < 2 / LOCATION_BINS for low, high in spans):
        return random_box(rng)
    return Box(spans[0][0], spans[1][0], spans[0][1], spans[1][1], NOISE)
