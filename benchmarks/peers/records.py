"""The three records that every program trains on. Prompts and answers share no word, so a token tells what it is."""

from pathlib import Path
from typing import Any

from PIL import Image

PROMPTS = ["what is this", "describe every animal in english", "count dogs"]
# of 1, 12 and 3 words
ANSWERS = ["cat", "two green birds and a red fish sit near one old boat", "seven or eight"]
COLOURS = ["red", "lime", "blue"]


def images(side: int = 24) -> list[Image.Image]:
    """One image a record, of different colours and sizes."""
    return [Image.new("RGB", (side + i, side), colour) for i, colour in enumerate(COLOURS)]


def records() -> list[dict[str, Any]]:
    """Image, prefix and suffix of each record."""
    return [{"image": i, "prefix": p, "suffix": s} for i, p, s in zip(images(), PROMPTS, ANSWERS)]


def save_images(folder: str | Path) -> list[Path]:
    """Write the images as files; their paths."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    paths = [Path(folder) / f"{colour}.png" for colour in COLOURS]
    for image, path in zip(images(), paths):
        image.save(path)
    return paths


def words(texts: list[str]) -> list[str]:
    """The words of texts, each once, in their order."""
    return list(dict.fromkeys(word for text in texts for word in text.split()))
