"""A COCO instances file with images, small enough to check by hand."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from openpali.data.masks.rle import encode_rle

WIDTH, HEIGHT = 60, 40


def bar(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    """bool[40, 60] of a rectangle."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top:bottom, left:right] = True
    return mask


CROWD = {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT, HEIGHT * (WIDTH - 1)]}
CONTENT: dict[str, Any] = {
    "images": [
        {"id": 7, "file_name": "deep/a.png", "width": WIDTH, "height": HEIGHT},
        {"id": 3, "file_name": "b.png", "width": WIDTH, "height": HEIGHT},
        {"id": 5, "file_name": "empty.png", "width": WIDTH, "height": HEIGHT},
        {"id": 8, "file_name": "crowd.png", "width": WIDTH, "height": HEIGHT},
    ],
    "categories": [{"id": 1, "name": "cat"}, {"id": 18, "name": "dog"}],
    "annotations": [
        {"id": 100, "image_id": 7, "category_id": 18, "bbox": [10, 5, 20, 30], "iscrowd": 0, "area": 600}
        | {"segmentation": [[10, 5, 30, 5, 30, 35, 10, 35]]},
        {"id": 101, "image_id": 3, "category_id": 1, "bbox": [0, 0, 12, 10], "iscrowd": 0}
        | {"segmentation": {"size": [HEIGHT, WIDTH], "counts": encode_rle(bar(0, 0, 12, 10))["counts"]}},
        {"id": 102, "image_id": 7, "category_id": 1, "bbox": [35.5, 10.25, 20, 12.5], "iscrowd": 0}
        | {"segmentation": [[35.5, 10.25, 55.5, 10.25, 45, 22.75], [36, 11, 40, 11, 38, 12]]},
        {"id": 103, "image_id": 3, "category_id": 18, "bbox": [40, 20, 10, 10], "iscrowd": 0},
        {"id": 104, "image_id": 8, "category_id": 18, "bbox": [30, 10, 12, 9], "iscrowd": 0, "segmentation": []},
        {"id": 105, "image_id": 8, "category_id": 1, "bbox": [0, 0, 1, 40], "iscrowd": 1, "segmentation": CROWD},
        {"id": 106, "image_id": 8, "category_id": 1, "bbox": [5, 5, 4, 4], "iscrowd": 0}
        | {"segmentation": [[5, 5, 9, 5, 9, 9, 5, 9]]},
    ],
}


class CocoFiles:
    """Writes the file and its images into a folder."""

    def __init__(self, folder: Path) -> None:
        self.root, self.path = folder / "pictures", folder / "instances.json"
        (self.root / "deep").mkdir(parents=True)
        self.content = copy.deepcopy(CONTENT)
        for number, image in enumerate(CONTENT["images"]):
            pixels = np.full((HEIGHT, WIDTH, 3), 40 * number, np.uint8)
            pixels[:, :, 0] = np.arange(WIDTH) * 4
            Image.fromarray(pixels).save(self.root / image["file_name"])

    def write(self) -> Path:
        """The file, after changes to `content`."""
        self.path.write_text(json.dumps(self.content))
        return self.path

    def annotation(self, id_: int) -> dict[str, Any]:
        """One of the content's annotations, to change."""
        return next(found for found in self.content["annotations"] if found["id"] == id_)

    def image(self, id_: int) -> dict[str, Any]:
        """One of the content's images, to change."""
        return next(found for found in self.content["images"] if found["id"] == id_)


def ids(source: Any) -> list[str]:
    """Ids of the images that a source kept."""
    return [source[index]["id"].rpartition(":")[2] for index in range(len(source))]


def reason(source: Any, record: str) -> str:
    """The message about one record of the file."""
    (found,) = [bad for bad in source.bad if bad.record == record]
    return str(found)
