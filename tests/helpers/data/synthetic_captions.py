"""Miniatures of the datasets of captions, expressions: their public layout with a handful of records.

Each function writes one into a folder and returns what the `source` of its configuration is to be overridden with.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from synthetic_media import HEIGHT, WIDTH, save_image, write_json, write_lines, write_text

from openpali.data.sources.public.base import held_out

LANGUAGES = ["de", "fil", "th", "zh"]
PARTS = ["train", "train", "restval", "train", "val", "val", "test", "test"]
TEXTS = ["a Red dog", "two green cats", "what is this"]
RICO_HEIGHT = 2560


def overrides(folder: Path) -> dict[str, Any]:
    return {"path": str(folder)}


def karpathy(folder: Path) -> None:
    """dataset_coco.json and its images."""
    images = []
    for number, part in enumerate(PARTS):
        path = "train2014" if part == "train" else "val2014"
        name = f"COCO_{path}_{number + 1:012d}.jpg"
        save_image(folder / path / name, number)
        sentences = [{"raw": text, "tokens": text.split(), "sentid": number * 10 + i} for i, text in enumerate(TEXTS)]
        image = {"filepath": path, "filename": name, "split": part, "cocoid": number + 1, "imgid": number}
        images.append(image | {"sentences": sentences, "sentids": [number * 10]})
    write_json(folder / "dataset_coco.json", {"dataset": "coco", "images": images})


def cococap(folder: Path) -> dict[str, Any]:
    karpathy(folder)
    return overrides(folder)


def nocaps(folder: Path) -> dict[str, Any]:
    images = [{"id": n, "file_name": f"{n:016x}.jpg", "coco_url": "", "open_images_id": f"{n:016x}"} for n in range(3)]
    captions = [{"id": n, "image_id": n % 3, "caption": f"{TEXTS[n % 3]} {n}"} for n in range(6)]
    for number, image in enumerate(images):
        save_image(folder / "validation" / image["file_name"], number)
    write_json(folder / "nocaps_val_4500_captions.json", {"images": images, "annotations": captions, "info": {}})
    return overrides(folder)


def apart(count: int) -> list[str]:
    """Names of images to train on, and as the last one a name that is set aside for validation."""
    names = [f"{n:016x}" for n in range(200)]
    return [n for n in names if not held_out(n)][:count] + [n for n in names if held_out(n)][:1]


def textcaps(folder: Path) -> dict[str, Any]:
    def entry(name: str, text: str) -> dict[str, Any]:
        return {"image_id": name, "image_name": name, "caption_str": text, "set_name": "train", "question": ""}

    names, val = apart(4), ["f" * 16, "e" * 16]
    for number, name in enumerate([*names, *val]):
        save_image(folder / "train_images" / f"{name}.jpg", number)
    train = [entry(name, text) for name in names for text in TEXTS]
    write_json(folder / "TextCaps_0.1_train.json", {"dataset_name": "textcaps", "data": train})
    write_json(folder / "TextCaps_0.1_val.json", {"data": [entry(name, TEXTS[0]) for name in val]})
    return overrides(folder)


def coco35l(folder: Path) -> dict[str, Any]:
    numbers = [n for n in range(1, 200) if not held_out(str(n))][:4] + [n for n in range(1, 200) if held_out(str(n))][
        :1
    ]
    dev = [901, 902]
    images = []
    for number in [*numbers, *dev]:
        name = f"COCO_val2014_{number:012d}.jpg"
        save_image(folder / "val2014" / name, number)
        images.append({"filepath": "val2014", "filename": name, "cocoid": number, "split": "val", "sentences": []})
    write_json(folder / "dataset_coco.json", {"images": images})
    for part, own in (("train", numbers), ("dev", dev)):
        # as in the released files, all of one language before the next
        lines = [
            {"image_id": f"{number}_{turn}", "caption_tokenized": text, "trg_lang": language}
            | {"translation_tokenized": f"{text} ({language})", "backtranslation_tokenized": text}
            for language in LANGUAGES
            for number in own
            for turn, text in enumerate(TEXTS)
        ]
        write_lines(folder / f"coco_mt_{part}.jsonl", lines)
    return overrides(folder)


def xm3600(folder: Path) -> dict[str, Any]:
    lines = []
    for number in range(3):
        key = f"{number:016x}"
        save_image(folder / "images" / f"{key}.jpg", number)
        texts = {lang: {"caption": [f"{text} {lang}" for text in TEXTS]} for lang in ["en", "quz", "sw"]}
        lines.append({"image/key": key, "image/locale": "en"} | texts)
    write_lines(folder / "captions.jsonl", lines)
    return overrides(folder)


def scicap(folder: Path) -> dict[str, Any]:
    for part, count in (("train", 4), ("val", 2), ("test", 2)):
        names = [f"1001.{part}v{n}-Figure{n}-1.png" for n in range(count)]
        for number, name in enumerate(names):
            save_image(folder / "SciCap-No-Subfig-Img" / part / name, number)
            lower = {"caption": f"{TEXTS[number % 3].lower()} of figure", "sentence": [], "token": []}
            content = {"figure-ID": name, "0-originally-extracted": "Figure 2: A Red dog."}
            content |= {"1-lowercase-and-token-and-remove-figure-index": lower, "2-normalized": {}}
            write_json(folder / "SciCap-Caption-All" / part / name.replace(".png", ".json"), content)
        listing = folder / "List-of-Files-for-Each-Experiments/First-Sentence/No-Subfig" / part / "file_idx.json"
        write_json(listing, names)
    return overrides(folder)


def screen2words(folder: Path) -> dict[str, Any]:
    parts = {"train": [10, 11, 12, 13], "dev": [20, 21], "test": [30, 31]}
    screens = [screen for part in parts.values() for screen in part]
    for screen in screens:
        save_image(folder / "combined" / f"{screen}.jpg", screen, (20, 36))
    rows = [f'{screen},"{text}, and more"' for screen in screens for text in TEXTS]
    write_text(folder / "screen_summaries.csv", "screenId,summary", *rows)
    for part, own in parts.items():
        write_text(folder / "split" / f"{part}_screens.txt", *map(str, own))
    return overrides(folder)


def widgetcap(folder: Path) -> dict[str, Any]:
    parts = {"train": [10, 11, 12], "dev": [20], "test": [30]}
    rows = []
    for screen in [screen for part in parts.values() for screen in part]:
        save_image(folder / "combined" / f"{screen}.jpg", screen, (90, 160))
        # nodes 0.0 and 0.1.0 in RICO's canvas of 1440 x 2560
        nested = {"bounds": [0, 1280, 1440, 2560], "children": [{"bounds": [144, 1280, 720, 1536]}]}
        root = {"bounds": [0, 0, 1440, 2560], "children": [{"bounds": [0, 0, 720, 256]}, nested]}
        write_json(folder / "combined" / f"{screen}.json", {"activity": {"root": root}, "activity_name": "x"})
        rows += [f"{screen},0.0,go back|back button|go back", f"{screen},0.1.0,search"]
    write_text(folder / "widget_captions.csv", "screenId,nodeId,captions", *rows)
    for part, own in parts.items():
        write_text(folder / "split" / f"{part}.txt", *map(str, own))
    return overrides(folder)


def refcoco_seg(folder: Path) -> dict[str, Any]:
    """Images 1 to 4 train, 5 is for validation and 6 a test; RefCOCOg's validation has RefCOCO's image 4."""
    images = [
        {"id": n, "file_name": f"COCO_train2014_{n:012d}.jpg", "width": WIDTH, "height": HEIGHT} for n in range(1, 7)
    ]
    for image in images:
        save_image(folder / "train2014" / image["file_name"], image["id"])
    annotations = []
    for image in images:
        for turn, left in enumerate((4, 22)):
            outline = [left, 5, left + 14, 5, left + 14, 25, left, 25]
            annotation = {"id": 10 * image["id"] + turn, "image_id": image["id"], "category_id": 1, "iscrowd": 0}
            annotations.append(annotation | {"bbox": [left, 5, 14, 20], "segmentation": [outline], "area": 280})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "dog"}]}
    splits = {1: "train", 2: "train", 3: "train", 4: "train", 5: "val", 6: "testA"}
    for data_set, file in (("refcoco", "refs(unc)"), ("refcoco+", "refs(unc)"), ("refcocog", "refs(umd)")):
        refs = []
        for turn, annotation in enumerate(annotations):
            image, sides = annotation["image_id"], ("left", "right")
            split = "val" if data_set == "refcocog" and image == 4 else splits[image]
            split = "test" if data_set == "refcocog" and split == "testA" else split
            texts = [f"{sides[turn % 2]} dog in {data_set}", f"the {sides[turn % 2]} one"]
            ref = {"ref_id": turn, "ann_id": annotation["id"], "image_id": image, "split": split, "category_id": 1}
            ref |= {"file_name": f"COCO_train2014_{image:012d}_{turn}.jpg", "sent_ids": [2 * turn, 2 * turn + 1]}
            refs.append(ref | {"sentences": [{"sent": text, "raw": text, "tokens": text.split()} for text in texts]})
        write_json(folder / data_set / f"{file}.json", refs)
        write_json(folder / data_set / "instances.json", content)
    return overrides(folder)


MINIATURES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "cococap": cococap,
    "textcaps": textcaps,
    "coco35l": coco35l,
    "scicap": scicap,
    "screen2words": screen2words,
    "widgetcap": widgetcap,
    "refcoco_seg": refcoco_seg,
}
