"""Miniatures of the datasets for evaluation alone: the public layout of each, with generated images.

Each function writes one into a folder, and gives what the `source` of its configuration needs instead of a download.
"""

from pathlib import Path
from typing import Any

from synthetic_media import save_image, write_lines, write_text

SHADES = ["(a) Red (b) Blue", "(a) Yes (b) No", '"(a) Near, in front (b) Far"']


def mmvp(folder: Path) -> dict[str, Any]:
    """MMVP: three pairs, whose first column is spelled as in the published file."""
    lines = ["lndex,Question,Options,Correct Answer"]
    for number in range(1, 7):
        save_image(folder / "MMVP Images" / f"{number}.jpg", number)
        lines.append(f"{number},Is it {(number - 1) // 2}?,{SHADES[(number - 1) // 2]},({'ba'[number % 2]})")
    write_text(folder / "Questions.csv", *lines)
    return {"path": str(folder)}


def objaverse(folder: Path) -> dict[str, Any]:
    """Objaverse Multiview: two objects of three views each."""
    rows = []
    for number, category in enumerate(("banana", "bow_(weapon)")):
        views = [f"views/{number}/{view}.png" for view in range(3)]
        for view, name in enumerate(views):
            save_image(folder / name, 3 * number + view)
        rows.append({"id": f"uid{number}", "category": category, "views": views})
    write_lines(folder / "objects.jsonl", rows)
    return {"path": str(folder)}


def miap(folder: Path) -> dict[str, Any]:
    """MIAP: twelve images of one person each, and one of two people."""
    header = "ImageID,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepictionOf"
    for part, count in (("train", 2), ("val", 2), ("test", 13)):
        lines = [f"{header},IsInsideOf,GenderPresentation,AgePresentation"]
        for number in range(count):
            image = f"{number:016x}"
            save_image(folder / part / f"{image}.jpg", number)
            gender = ("Predominantly Feminine", "Predominantly Masculine")[number % 2]
            row = f"{image},/m/01g317,1,0.1,0.9,0.1,0.9,0,0,0,0,0,{gender},{('Young', 'Older')[number // 2 % 2]}"
            lines += [row] * (2 if number == 12 else 1)
        write_text(folder / f"open_images_extended_miap_boxes_{part}.csv", *lines)
    return {"path": str(folder)}


def fairface(folder: Path) -> dict[str, Any]:
    """FairFace: four faces of each split."""
    for part in ("train", "val"):
        lines = ["file,age,gender,race,service_test"]
        for number in range(1, 5):
            save_image(folder / part / f"{number}.jpg", number)
            lines.append(f"{part}/{number}.jpg,{('3-9', '20-29')[number % 2]},Female,{('A', 'B')[number // 3]},True")
        write_text(folder / f"fairface_label_{part}.csv", *lines)
    return {"path": str(folder)}


def labelled(folder: Path) -> dict[str, Any]:
    """A table of images with labels: 24 images of two colours, of which one has no size."""
    lines = ["image,colour,size,question,answer"]
    for number in range(24):
        save_image(folder / "images" / f"{number}.png", number % 8)
        colour, size = ("warm", "cold")[number % 2], "" if number == 0 else ("large", "small")[number // 2 % 2]
        lines.append(f"images/{number}.png,{colour},{size},answer en what is this?,dog")
    write_text(folder / "labels.csv", *lines)
    return {"path": str(folder / "labels.csv")}


MINIATURES = {
    "mmvp": mmvp,
    "objaverse_multiview": objaverse,
    "miap": miap,
    "fairface": fairface,
}
"""Configuration of recipes/configs/evaluation to what writes its dataset."""
