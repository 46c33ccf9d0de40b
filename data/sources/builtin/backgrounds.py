"""Backgrounds of the built-in images: gradients, and crops of photographs of scikit-image."""

import functools
import random
from importlib.resources import files

import numpy as np
from PIL import Image

PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "coffee.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "retina.jpg",
)
"""Files in skimage/data. Its cat, rocket and motorcycles are left out, since they are concepts of the scenes."""

_WIDEST = 384


@functools.cache
def photograph(name: str) -> Image.Image:
    """One photograph as RGB, at most 384 pixels on a side.

    Raises:
        ImportError: scikit-image is not installed.
    """
    try:
        folder = files("skimage.data")
    except ImportError as error:
        raise ImportError('the built-in images need scikit-image: pip install "openpali[demo]"') from error
    with (folder / name).open("rb") as file:
        image = Image.open(file).convert("RGB")
    image.thumbnail((_WIDEST, _WIDEST))
    return image


def background(size: int | tuple[int, int], rng: random.Random) -> Image.Image:
    """An RGB background: a gradient, a crop of a photograph, or a mixture of both.

    Args:
        size: side of a square, or width and height.
        rng: source of chance.
    """
    share = rng.choice((0.0, 0.0, 0.5, 0.8, 1.0))
    if share == 0.0:
        return gradient(size, rng)
    crop = _crop(photograph(rng.choice(PHOTOGRAPHS)), size, rng)
    return crop if share == 1.0 else Image.blend(gradient(size, rng), crop, share)


def gradient(size: int | tuple[int, int], rng: random.Random) -> Image.Image:
    """A linear gradient between two light or dark colours in a random direction."""
    start, end = (np.array([rng.randint(20, 250) for _ in range(3)], np.float32) for _ in range(2))
    angle = rng.uniform(0, 2 * np.pi)
    across, down = (np.linspace(-0.5, 0.5, side, dtype=np.float32) for side in sides(size))
    along = across[None, :] * np.cos(angle) + down[:, None] * np.sin(angle)
    along = np.clip(along / 1.42 + 0.5, 0, 1)[..., None].astype(np.float32)
    return Image.fromarray((start + (end - start) * along).astype(np.uint8))


def sides(size: int | tuple[int, int]) -> tuple[int, int]:
    """Width and height of a size that may be the side of a square."""
    return (size, size) if isinstance(size, int) else size


def _crop(image: Image.Image, size: int | tuple[int, int], rng: random.Random) -> Image.Image:
    """A crop whose longer side is a quarter to a half of the photograph's shorter side: texture rather than a second
    subject."""
    side, (width, height) = rng.uniform(0.25, 0.5) * min(image.size), sides(size)
    across, down = side * (width / max(width, height)), side * (height / max(width, height))
    left, top = rng.uniform(0, image.width - across), rng.uniform(0, image.height - down)
    window = (left, top, left + across, top + down)
    crop = image.resize((width, height), Image.Resampling.BILINEAR, box=window)
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else crop
