"""What is printed and written of an answer: lines for people, or JSON, drawings and masks."""

import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from openpali.data.masks.rle import decode_rle
from openpali.eval.answering.decoding import Answer
from openpali.eval.predicting.images import Picture, drawing_names
from openpali.eval.predicting.objects import MaskReader, find_objects, format_object, json_object
from openpali.eval.report.drawing import draw_predictions


@dataclass(frozen=True)
class Output:
    """Where answers go.

    Attributes:
        json: JSON objects, one a line, in place of lines for people.
        several: each answer is headed by its image and prompt.
        drawings: of each answer, by image and prompt: the path, and whether to draw an answer without objects.
        masks: of each answer, likewise: the folder of its masks.
        drop_duplicates: overlap above which a box that repeats another is left out; none is when None.
    """

    json: bool
    several: bool
    drawings: dict[tuple[str, str], tuple[Path, bool]]
    masks: dict[tuple[str, str], Path]
    drop_duplicates: float | None = None

    def write(self, picture: Picture, prompt: str, answer: Answer, reader: MaskReader) -> None:
        """Print an answer with its objects, and write what is wanted of it. A clip is drawn on its first frame."""
        image, key = picture.images[0], (picture.path, prompt)
        found, rejected = find_objects(answer, image, reader, self.drop_duplicates)
        drawing, always = self.drawings.get(key, (None, False))
        drawing = drawing if found or always else None
        lines = [answer.text, *(format_object(one, image) for one in found)]
        lines += [f"not read: {part!r}, since {reason}" for part, reason in rejected]
        # before files are written, which may fail
        if not self.json:
            say(*([f"{picture.path}: {prompt}".rstrip()] if self.several else []), *self.indented(lines))
        if drawing:
            save_drawing(drawing, image, found)
        masks = save_masks(self.masks[key], found) if key in self.masks else []
        if self.json:
            row = json_row(picture, prompt, answer, found, rejected)
            say(json.dumps(row | {"drawing": str(drawing) if drawing else None}))
            return
        drawn = [f"Image with {count_objects(found)}: {drawing}"] if drawing else []
        say(*self.indented([*drawn, *(f"Mask: {path}" for path in masks)]))

    def indented(self, lines: Sequence[str]) -> list[str]:
        """Lines of one answer, below its head where there are several."""
        return ["  " + line.replace("\n", "\n  ") if self.several else line for line in lines]

    def make_folders(self) -> None:
        """Make the folders of several answers, so that one that cannot be made is known before a model loads."""
        for folder in {path.parent for path, _ in self.drawings.values()} | {
            path.parent for path in self.masks.values()
        }:
            if self.several:
                folder.mkdir(parents=True, exist_ok=True)


def say(*lines: str) -> None:
    """Print lines at once, in a terminal above the progress bar."""
    if lines and sys.stdout.isatty():
        tqdm.write("\n".join(lines), file=sys.stdout)
    elif lines:
        print(*lines, sep="\n", flush=True)


def plan_output(
    paths: Sequence[str],
    prompts: Sequence[str],
    save: Path | None,
    masks: Path | None,
    as_json: bool,
    drop_duplicates: float | None = None,
) -> Output:
    """Plan the names of all drawings and folders of masks.

    One answer is drawn into `save`, a file or a folder, or if it has objects beside the working folder's other files;
    several into a folder, and only if `save` is given.

    Raises:
        ValueError: `save` is a file for several answers, or is the image itself.
    """
    several = len(paths) * len(prompts) > 1
    is_file = save is not None and names_file(save)
    if several and is_file:
        count = f"{len(paths) * len(prompts):,} answers"
        raise ValueError(f"--save {save} is one file, and there are {count}: give a folder")
    if save is not None and is_file and os.path.realpath(save) == os.path.realpath(paths[0]):
        raise ValueError(f"--save {save} would replace the image itself: give another name")
    folder = Path() if save is None or is_file else save
    keys = [(path, prompt) for path in paths for prompt in prompts]
    names = [name for of_image in drawing_names(paths, prompts, folder) for name in of_image]
    drawings: dict[tuple[str, str], tuple[Path, bool]] = {}
    if save is not None and is_file:
        drawings = {keys[0]: (save, True)}
    elif save is not None:
        drawings = {key: (folder / f"{name}.png", True) for key, name in zip(keys, names)}
    elif not several and not as_json:
        drawings = {keys[0]: (Path(f"{names[0]}.png"), False)}
    folders = {} if masks is None else {key: masks / name if several else masks for key, name in zip(keys, names)}
    return Output(as_json, several, drawings, folders, drop_duplicates)


def names_file(path: Path) -> bool:
    """Whether a path ends as an image that can be written, and is no folder."""
    return Image.registered_extensions().get(path.suffix.lower()) in Image.SAVE and not path.is_dir()


def json_row(
    picture: Picture,
    prompt: str,
    answer: Answer,
    found: Sequence[dict[str, Any]],
    rejected: Sequence[tuple[str, str]],
) -> dict[str, Any]:
    """One answer as JSON."""
    image = picture.images[0]
    return {
        "image": picture.path,
        "width": image.width,
        "height": image.height,
        "prompt": prompt,
        "answer": answer.text,
        "boxes": [json_object(one, image) for one in found],
        "not_read": [{"text": part, "reason": reason} for part, reason in rejected],
    }


def count_objects(found: Sequence[dict[str, Any]]) -> str:
    """The numbers of boxes and masks."""
    masks = sum(one["mask"] is not None for one in found)
    counts = [f"{len(found)} {'box' if len(found) == 1 else 'boxes'}"]
    counts += [f"{masks} {'mask' if masks == 1 else 'masks'}"] if masks else []
    return " and ".join(counts)


def save_drawing(path: Path, image: Image.Image, found: Sequence[dict[str, Any]]) -> None:
    """Write the image with boxes and masks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_predictions(image, found).save(path)


def save_masks(folder: Path, found: Sequence[dict[str, Any]]) -> list[Path]:
    """Write each mask at the size of the image, 255 inside, 0 outside; the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, one in enumerate(found, 1):
        if one["mask"] is not None:
            name = "_".join([f"{index:02d}", *re.findall(r"\w+", one["label"])])[:80]
            paths.append(folder / f"{name}.png")
            Image.fromarray(decode_rle(one["mask"]).astype(np.uint8) * 255).save(paths[-1])
    return paths
