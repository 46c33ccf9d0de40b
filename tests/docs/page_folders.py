"""What a page takes for granted, in miniature: checkpoints under the names that it shows, data, images."""

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import synthetic_captions
import synthetic_evaluation
import synthetic_questions
import torch
from big_vision_files import save_tokenizer
from clips import write_clip
from emoji36_set import write_set
from PIL import Image, ImageDraw
from released_masks import released_arrays
from tiny_adapters import save_checkpoint
from tiny_pali3 import TEXT
from tiny_peers import tiny_florence
from tiny_siglip import tiny_siglip
from transformers import AutoModelForSeq2SeqLM, SiglipForImageClassification, UMT5Config

from openpali import MaskVQVAE
from openpali.data.sources.builtin.emoji36_folder import default_folder
from openpali.data.tokenizer import train_tokenizer
from openpali.modeling.configuration_mask_vqvae import MaskVQVAEConfig
from openpali.scripts.web.running.files import write_shard

ROOT = Path(__file__).parents[2]
NAMES = ["dog", "cat"]


def tokenizer() -> Any:
    """Bytes, locations and segments."""
    return train_tokenizer(["what is this", "caption en", "a red dog", "two green cats", "detect dog"] * 4, 300)


def side_of(folder: str) -> int:
    """Of images in pixels, where a checkpoint's name ends with it."""
    found = re.search(r"-(\d+)$", folder)
    return int(found[1]) if found else 16


def pali3(*folders: str) -> None:
    """Random checkpoints."""
    for folder in folders:
        save_checkpoint("pali3", tokenizer(), Path(folder), side_of(folder))


def paligemma(*folders: str) -> None:
    """Likewise; what has the name of one of the Hub is found here first."""
    for folder in folders:
        save_checkpoint("paligemma", tokenizer(), Path(folder), side_of(folder))


def florence(folder: str) -> None:
    """A model of another family."""
    for part in tiny_florence():
        part.save_pretrained(folder)


def siglip(*folders: str) -> None:
    """Both towers."""
    for folder in folders:
        for part in tiny_siglip():
            part.save_pretrained(folder)


def classifier(folder: str) -> None:
    """An image encoder that has learnt by classification."""
    model, processor = tiny_siglip()
    SiglipForImageClassification(model.config).save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)


def umt5(folder: str) -> None:
    """A text model and its tokenizer."""
    words = tokenizer()
    text = {key: value for key, value in TEXT["umt5"].items() if key != "model_type"} | {"vocab_size": len(words)}
    AutoModelForSeq2SeqLM.from_config(UMT5Config(**text)).save_pretrained(folder)
    words.save_pretrained(folder)


def codec(folder: str) -> None:
    """Masks as tokens, random."""
    torch.manual_seed(0)
    MaskVQVAE(MaskVQVAEConfig()).save_pretrained(folder)


def released_codec(path: str) -> None:
    """In the authors' layout."""
    np.savez(path, **released_arrays())  # type: ignore[arg-type]


def released_paligemma(path: str, gemma: str) -> None:
    """The same of a checkpoint, and a tokenizer that fits it."""
    shutil.copy(ROOT / "tests" / "fixtures" / "paligemma1_tiny.npz", path)
    save_tokenizer(Path(gemma), 512)


def save_images(*paths: str) -> None:
    """Each of its own colour."""
    for number, path in enumerate(paths):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (37 * number % 256, 91, 200 - number % 200)).save(path)


def clip(path: str) -> None:
    """Of two seconds."""
    write_clip(Path(path), 16)


def jsonl(path: str, count: int = 20) -> None:
    """A person's own records, or pairs of images and texts."""
    rows = [{"image": f"pictures/{i}.png", "prefix": "what is this?", "suffix": f"number {i}"} for i in range(count)]
    save_images(*(row["image"] for row in rows))
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


def coco(path: str, images: str, count: int = 20) -> None:
    """An object on each image."""
    content: dict[str, list[Any]] = {"images": [], "annotations": []}
    content["categories"] = [{"id": number, "name": name} for number, name in enumerate(NAMES)]
    Path(images).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        image, x = Image.new("RGB", (64, 64), (200, 10 * number, 120)), 2 * number
        ImageDraw.Draw(image).rectangle((x, 10, x + 15, 30), fill=(0, 0, 90))
        image.save(Path(images, f"{number}.png"))
        content["images"].append({"id": number, "file_name": f"{number}.png", "width": 64, "height": 64})
        one = {"id": number, "image_id": number, "category_id": number % 2, "bbox": [x, 10, 16, 21], "iscrowd": 0}
        outline = [[x, 10, x + 16, 10, x + 16, 31, x, 31]]
        content["annotations"].append(one | {"segmentation": outline, "area": 336})
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(content))


def miniature(name: str) -> None:
    """A public dataset, where its configuration looks for it."""
    known: dict[str, Callable[[Path], dict[str, Any]]]
    known = synthetic_captions.MINIATURES | synthetic_questions.MINIATURES | synthetic_evaluation.MINIATURES
    known |= {"objaverse": synthetic_evaluation.objaverse, "xm3600": synthetic_captions.xm3600}
    folder = Path("data", name)
    folder.mkdir(parents=True)
    assert known[name](folder) == {"path": str(folder)}


def shards(pattern: str, count: int) -> None:
    """A pair of image and caption in each."""
    for number in range(count):
        file = io.BytesIO()
        Image.effect_noise((20, 20), 40 + number).convert("RGB").save(file, "PNG")
        write_shard(Path(pattern.format(number)), [(f"{number}", {"png": file.getvalue(), "txt": b"a red dog"})])


def names_in_36_languages() -> None:
    """What `make data36` builds, in the cache folder."""
    write_set(default_folder())


def metrics() -> None:
    """The checkout's metrics, which are loaded by their place in it."""
    Path("eval").symlink_to(ROOT / "eval")
