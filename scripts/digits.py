"""Write a small detection dataset in COCO's layout: handwritten digits on coloured grounds.

    python -m openpali.scripts.digits my-digits
    openpali transfer --model nano --data my-digits --kind detect

The digits are scans of people's handwriting (UCI's optical recognition set, from scikit-learn), which no checkpoint
that ships has seen. Each image has one to three of them, of a random size and place, without overlap.
"""

import argparse
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from openpali.modeling.user_errors import UserError, at_least, command

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIDE, MOST, TRIES = 192, 3, 20


def load_scans() -> tuple[np.ndarray, np.ndarray]:
    """Scans, float[n, 8, 8] from 0 to 1, and the digit of each, int[n]."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError('scikit-learn is missing: pip install "openpali[eval]"') from error
    found: Any = load_digits()
    return found.images / 16, found.target


def background(rng: random.Random) -> Image.Image:
    """A blend of four random colours, one from each corner."""
    corners = [[[rng.randrange(60, 256) for _ in range(3)] for _ in range(2)] for _ in range(2)]
    return Image.fromarray(np.asarray(corners, np.uint8)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)


def draw(image: Image.Image, scan: np.ndarray, box: tuple[int, int, int]) -> list[int]:
    """Write a scan in dark ink at left, top, side; returns its ink as x, y, width, height in pixels."""
    left, top, side = box
    ink = Image.fromarray((255 * scan).astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    image.paste((20, 20, 30), (left, top), ink)
    x0, y0, x1, y1 = ink.point([255 * (level > 100) for level in range(256)]).getbbox() or (0, 0, side, side)
    return [left + x0, top + y0, x1 - x0, y1 - y0]


def place(rng: random.Random, taken: list[tuple[int, int, int]]) -> tuple[int, int, int] | None:
    """Left, top and side of a square that overlaps no other; None where none was found."""
    for _ in range(TRIES):
        side = rng.randrange(SIDE // 4, SIDE // 2)
        left, top = rng.randrange(SIDE - side), rng.randrange(SIDE - side)
        if all(left >= x + s or x >= left + side or top >= y + s or y >= top + side for x, y, s in taken):
            return left, top, side
    return None


def write_dataset(folder: Path, count: int, seed: int = 0) -> Path:
    """Write images and `annotations.json`; returns the latter."""
    scans, digits = load_scans()
    rng = random.Random(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number in range(count):
        image, taken = background(rng), []
        for _ in range(rng.randint(1, MOST)):
            box = place(rng, taken)
            if box is None:
                continue
            taken.append(box)
            scan = rng.randrange(len(scans))
            x, y, width, height = draw(image, scans[scan], box)
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": int(digits[scan])})
            annotations[-1] |= {"bbox": [x, y, width, height], "area": width * height, "iscrowd": 0}
        name = f"{number:04d}.png"
        image.save(folder / "images" / name)
        images.append({"id": number, "file_name": name, "width": SIDE, "height": SIDE})
    categories = [{"id": number, "name": name} for number, name in enumerate(NAMES)]
    path = folder / "annotations.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


@command("digits")
def main(argv: list[str] | None = None) -> None:
    """Write the dataset."""
    parser = argparse.ArgumentParser(
        prog="python -m openpali.scripts.digits", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("folder", type=Path, help="where to write")
    parser.add_argument("--images", type=at_least(20), default=200, help="number of images (default: %(default)s)")
    args = parser.parse_args(argv)
    print(f"wrote {write_dataset(args.folder, args.images)}")


if __name__ == "__main__":
    main()
