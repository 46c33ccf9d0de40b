"""Synthetic custom data: images of coloured squares, and their annotation files."""

import csv
import json
import random
from pathlib import Path
from typing import Any

from PIL import Image

SIDE = 40
COLOURS = {"red": (220, 30, 30), "lime": (30, 220, 30), "blue": (30, 30, 220)}
NAMES = list(COLOURS)


def save_image(path: Path, number: int, name: str = "red", box: tuple[int, int, int, int] = (4, 6, 12, 10)) -> Path:
    """A square of a colour on a ground that no other number has; the box is left, top, width, height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (SIDE, SIDE), (number % 256, 100 + number // 256, 140))
    image.paste(COLOURS[name], (box[0], box[1], box[0] + box[2], box[1] + box[3]))
    image.save(path)
    return path


def some_box(number: int) -> tuple[int, int, int, int]:
    """In the image as left, top, width, height; as corners half of them reach outside."""
    rng = random.Random(number)
    return rng.randrange(16, 24), rng.randrange(16, 24), rng.randrange(8, 14), rng.randrange(8, 14)


def coco(folder: Path, count: int = 20, file: str = "annotations.json", first: int = 0, images: str = "") -> Path:
    """Images with one object each, and a COCO JSON with the category ids 0, 1 and 2."""
    content: dict[str, list[Any]] = {"images": [], "annotations": []}
    content["categories"] = [{"id": number, "name": name} for number, name in enumerate(NAMES)]
    for number in range(first, first + count):
        x, y, wide, high = some_box(number)
        name = f"{number}.png"
        save_image(folder / (images or "images") / name, number, NAMES[number % 3], (x, y, wide, high))
        content["images"].append({"id": number, "file_name": name, "width": SIDE, "height": SIDE})
        outline = [[x, y, x + wide, y, x + wide, y + high, x, y + high]]
        one = {"id": 100 + number, "image_id": number, "category_id": number % 3, "bbox": [x, y, wide, high]}
        content["annotations"].append(one | {"segmentation": outline, "iscrowd": 0})
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def edit(path: Path, change: Any) -> Path:
    """Change what a JSON file says."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def table(folder: Path, rows: list[dict[str, Any]], file: str = "metadata.jsonl", first: int = 0) -> Path:
    """An image for each row that names none, and the rows as JSON lines or CSV."""
    rows = [{"file_name": f"{number}.png"} | row for number, row in enumerate(rows, first)]
    for number, row in enumerate(rows, first):
        if not (folder / row["file_name"]).exists():
            save_image(folder / row["file_name"], number, NAMES[number % 3])
    path = folder / file
    if path.suffix == ".csv":
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def class_folders(folder: Path, each: int = 5, names: list[str] = NAMES, first: int = 0) -> Path:
    """A folder of images for each class."""
    for place, name in enumerate(names):
        for number in range(each):
            save_image(folder / name / f"{number}.png", first + 100 * place + number, name)
    return folder


def found(report: dict[str, Any], check: str) -> list[tuple[str, int]]:
    """Level and number of records of each finding of one check, in data_check.json."""
    return [(one["level"], one["records"]) for one in report["findings"] if one["check"] == check]
