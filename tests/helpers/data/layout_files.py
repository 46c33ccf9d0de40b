"""Synthetic custom data in the layouts of other tools: YOLO, Pascal VOC and the downloads of Roboflow."""

import json
from pathlib import Path
from typing import Any

from custom_files import NAMES, SIDE, save_image, some_box

SPLITS = {"train": 8, "valid": 3, "test": 3}
_README = "Provided by a Roboflow user\nLicense: CC BY 4.0\n"


def yolo_line(number: int, polygon: bool = False) -> str:
    """The label of an image of `save_image` and `some_box`: a box, or the polygon of its corners."""
    x, y, wide, high = (value / SIDE for value in some_box(number))
    corners = [x, y, x + wide, y, x + wide, y + high, x, y + high]
    values = corners if polygon else [x + wide / 2, y + high / 2, wide, high]
    return " ".join([str(number % 3), *(f"{value:.6f}" for value in values)]) + "\n"


def yolo_images(images: Path, labels: Path, first: int, count: int, polygon: bool = False) -> None:
    """Images and label files of the numbers from `first`."""
    labels.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        save_image(images / f"{number}.png", number, NAMES[number % 3], some_box(number))
        (labels / f"{number}.txt").write_text(yolo_line(number, polygon))


def ultralytics(folder: Path, polygon: bool = False) -> Path:
    """`images/train` beside `labels/train`, and a data.yaml with a mapping of names."""
    first = 0
    for split, count in {"train": 12, "val": 4}.items():
        yolo_images(folder / "images" / split, folder / "labels" / split, first, count, polygon)
        first += count
    names = "".join(f"  {number}: {name}\n" for number, name in enumerate(NAMES))
    (folder / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames:\n{names}")
    return folder


def roboflow_yolo(folder: Path, polygon: bool = False) -> Path:
    """`train/images` beside `train/labels`, and the paths that Roboflow writes."""
    first = 0
    for split, count in SPLITS.items():
        yolo_images(folder / split / "images", folder / split / "labels", first, count, polygon)
        first += count
    paths = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n"
    roboflow = "roboflow:\n  workspace: w\n  project: p\n  version: 1\n"
    (folder / "data.yaml").write_text(f"{paths}\nnc: 3\nnames: {NAMES}\n\n{roboflow}")
    (folder / "README.roboflow.txt").write_text(_README)
    return folder


def roboflow_coco(folder: Path) -> Path:
    """A `_annotations.coco.json` beside the images of each split; category 0 is the supercategory of the others."""
    first = 0
    categories = [{"id": 0, "name": "squares", "supercategory": "none"}]
    categories += [{"id": place, "name": name, "supercategory": "squares"} for place, name in enumerate(NAMES, 1)]
    for split, count in SPLITS.items():
        images, annotations = [], []
        for place in range(count):
            number, box = first + place, some_box(first + place)
            save_image(folder / split / f"{number}.png", number, NAMES[number % 3], box)
            images.append({"id": place, "license": 1, "file_name": f"{number}.png", "height": SIDE, "width": SIDE})
            one: dict[str, Any] = {"id": place, "image_id": place, "category_id": number % 3 + 1, "bbox": list(box)}
            annotations.append(one | {"area": box[2] * box[3], "segmentation": [], "iscrowd": 0})
        content = {"info": {}, "licenses": [], "categories": categories, "images": images, "annotations": annotations}
        (folder / split / "_annotations.coco.json").write_text(json.dumps(content))
        first += count
    (folder / "README.dataset.txt").write_text(_README)
    return folder


def voc_xml(number: int, name: str = "", more: str = "", box: tuple[int, int, int, int] | None = None) -> str:
    """The XML of an image: 1-based edges that hold the last pixel."""
    x, y, wide, high = some_box(number) if box is None else box
    edges = {"xmin": x + 1, "ymin": y + 1, "xmax": x + wide, "ymax": y + high}
    bndbox = "".join(f"<{edge}>{value}</{edge}>" for edge, value in edges.items())
    item = f"<object><name>{NAMES[number % 3]}</name><difficult>0</difficult><bndbox>{bndbox}</bndbox></object>"
    size = f"<size><width>{SIDE}</width><height>{SIDE}</height><depth>3</depth></size>"
    return f"<annotation><filename>{name or f'{number}.png'}</filename>{size}{item}{more}</annotation>"


def voc(folder: Path, counts: dict[str, int] | None = None) -> Path:
    """Annotations, JPEGImages and ImageSets/Main."""
    first = 0
    for made in ("Annotations", "ImageSets/Main"):
        (folder / made).mkdir(parents=True, exist_ok=True)
    for split, count in (counts or {"train": 10, "val": 4}).items():
        for number in range(first, first + count):
            save_image(folder / "JPEGImages" / f"{number}.png", number, NAMES[number % 3], some_box(number))
            (folder / "Annotations" / f"{number}.xml").write_text(voc_xml(number))
        lines = "".join(f"{number}\n" for number in range(first, first + count))
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text(lines)
        first += count
    return folder


def roboflow_voc(folder: Path) -> Path:
    """XML files beside the images of each split."""
    first = 0
    for split, count in SPLITS.items():
        for number in range(first, first + count):
            save_image(folder / split / f"{number}.png", number, NAMES[number % 3], some_box(number))
            (folder / split / f"{number}.xml").write_text(voc_xml(number))
        first += count
    (folder / "README.roboflow.txt").write_text(_README)
    return folder


def location_line(number: int) -> dict[str, str]:
    """A line of Roboflow's JSONL for PaliGemma."""
    x, y, wide, high = some_box(number)
    edges = (y, x, y + high, x + wide)
    tokens = "".join(f"<loc{round(value / SIDE * 1023):04d}>" for value in edges)
    prefix = "detect " + " ; ".join(NAMES)
    return {"image": f"{number}.png", "prefix": prefix, "suffix": f"{tokens} {NAMES[number % 3]}"}


def roboflow_paligemma(folder: Path) -> Path:
    """`dataset` with the images of all splits, and a JSONL file for each split."""
    first = 0
    for split, count in SPLITS.items():
        for number in range(first, first + count):
            save_image(folder / "dataset" / f"{number}.png", number, NAMES[number % 3], some_box(number))
        lines = "".join(json.dumps(location_line(number)) + "\n" for number in range(first, first + count))
        (folder / "dataset" / f"_annotations.{split}.jsonl").write_text(lines)
        first += count
    (folder / "README.dataset.txt").write_text(_README)
    return folder
