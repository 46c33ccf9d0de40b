"""The mask tokenizer (VQ-VAE) of tasks with masks, loaded once in each process on first use.

The codes of two mask tokenizers have nothing in common, so a checkpoint that was trained on masks keeps its own in the
folder `mask_vqvae` beside its weights.
"""

import functools
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import cached_file

from openpali.data.example import Box, Example
from openpali.data.masks.objects import Objects, box_dict, located
from openpali.data.masks.rle import encode_rle, mask_array, mask_box
from openpali.modeling.checkpoints import load_checkpoint
from openpali.modeling.location_tokens import LocatedBox
from openpali.modeling.modeling_mask_vqvae import MaskVQVAE
from openpali.modeling.segmentation_tokens import LocatedMask, format_segmentations
from openpali.modeling.shipped import shipped

DEFAULT_CODEC = "outputs/mask-vqvae"
OWN_CODEC = "mask_vqvae"

_REMEDY = (
    "`make mask-vqvae` trains one on the built-in drawings, `python -m openpali.scripts.convert_mask_vqvae vae-oid.npz"
    f" {DEFAULT_CODEC}` converts that of big_vision (which PaliGemma's tokens refer to), and --codec, or the option"
    " `codec` of a task, names another folder or a Hub name."
)


def load_codec(name: str) -> MaskVQVAE:
    """The mask tokenizer of a folder or Hub name, on the CPU.

    Raises:
        ValueError: there is none, or it is another model; the message has the commands that make one.
    """
    path = Path(name)
    is_folder = (path / "config.json").is_file()
    in_model = name.count("/") == 2 and path.name == OWN_CODEC
    is_local = path.is_absolute() or name.startswith((".", "outputs/"))
    if not is_folder and (is_local or name.count("/") != 1 and not in_model):
        raise ValueError(f"there is no mask codec at {name}: {_REMEDY}")
    try:
        # a relative name depends on the working directory
        return _loaded(str(path.resolve()) if is_folder else name)
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"{name} cannot be loaded as a mask codec ({error}): {_REMEDY}") from error


@functools.cache
def _loaded(name: str) -> MaskVQVAE:
    folder = Path(name).is_dir()
    parent, _, last = name.rpartition("/")
    where: dict[str, Any] = {"subfolder": OWN_CODEC} if last == OWN_CODEC and not folder else {}
    # it may be stored in 16 bits
    codec: Any = load_checkpoint(MaskVQVAE, parent if where else name, dtype=torch.float32, **where)
    return codec.eval()


def codec_of(model: str | None) -> str:
    """The mask tokenizer that a checkpoint was trained with, in its folder or on the Hub; else `DEFAULT_CODEC`."""
    if not model:
        return DEFAULT_CODEC
    name, quiet = shipped(model), ("missing_entries", "connection_errors", "gated_repo")
    if Path(name).is_dir():
        return str(Path(name, OWN_CODEC)) if Path(name, OWN_CODEC, "config.json").is_file() else DEFAULT_CODEC
    if name.count("/") != 1:
        return DEFAULT_CODEC
    options = {f"_raise_exceptions_for_{what}": False for what in quiet}
    there = cached_file(name, f"{OWN_CODEC}/config.json", **options)
    return f"{name}/{OWN_CODEC}" if there else DEFAULT_CODEC


def with_codec(task: dict[str, Any], model: str | None) -> dict[str, Any]:
    """The options of a task, which name the model's mask tokenizer where they name none and the task writes masks."""
    writes = task.get("name") in ("segment", "refer") and not task.get("boxes_only")
    return task | {"codec": codec_of(model)} if writes and "codec" not in task else task


def save_codec(name: str, folder: Path) -> None:
    """Keep a mask tokenizer beside the weights of a model that was trained with it."""
    if Path(name).resolve() != (folder / OWN_CODEC).resolve():
        load_codec(name).save_pretrained(folder / OWN_CODEC)


def write_masks(codec: str, items: Objects, boxes: list[Box]) -> tuple[str, tuple[dict[str, Any], ...]]:
    """The target text of objects, and their masks as RLE; both empty without objects.

    Args:
        codec: folder or Hub name.
        items: objects whose masks have a pixel. The `mask_tokens` of those whose `mask_codec` is the name of this
            mask tokenizer are written as they are.
        boxes: one for each, with the label to write, which may be empty.
    """
    if not items:
        return "", ()
    masks = [mask_array(item["mask"]) for item in items]
    places = [_place(box, mask) for box, mask in zip(boxes, masks, strict=True)]
    stored = [stored_tokens(codec, item) for item in items]
    new = [n for n, codes in enumerate(stored) if codes is None]
    encoded = dict(zip(new, _codes(codec, [masks[n] for n in new], [places[n] for n in new]), strict=True))
    codes = [encoded[n] if own is None else own for n, own in enumerate(stored)]
    named = [place._replace(label=box.label) for place, box in zip(places, boxes)]
    text = format_segmentations(LocatedMask(box, tuple(own)) for box, own in zip(named, codes))
    return text, tuple(encode_rle(mask) for mask in masks)


def mask_tokens(codec: str, masks: list[np.ndarray], boxes: list[Box]) -> list[list[int]]:
    """The sixteen codes of each mask, as `write_masks` writes them.

    Args:
        codec: folder or Hub name.
        masks: bool[H, W] with a pixel.
        boxes: of the objects.
    """
    return _codes(codec, masks, [_place(box, mask) for box, mask in zip(boxes, masks, strict=True)])


def stored_tokens(codec: str, item: dict[str, Any]) -> list[int] | None:
    """The tokens that an object has of a mask tokenizer; None where it has none, or those of another one."""
    tokens = item.get("mask_tokens")
    return tokens if tokens is not None and item.get("mask_codec") == codec_name(codec) else None


def codec_name(codec: str) -> str:
    """The name that stored tokens have of a mask tokenizer: a hash of its weights, wherever it lies."""
    return _weights_name(load_codec(codec))


@functools.cache
def _weights_name(codec: MaskVQVAE) -> str:
    weights = sorted(codec.state_dict().items())
    digest = hashlib.sha256(b"".join(value.numpy().tobytes() for _, value in weights))
    return f"mask-vqvae {digest.hexdigest()[:16]}"


def _codes(codec: str, masks: list[np.ndarray], places: list[LocatedBox]) -> list[list[int]]:
    return load_codec(codec).encode_located([torch.from_numpy(mask) for mask in masks], places)


def _place(box: Box, mask: np.ndarray) -> LocatedBox:
    """The box, or the box around the mask where the former is empty when rounded to pixels."""
    height, width = mask.shape
    left, top, right, bottom = (round(edge) for edge in located(box).pixel_xyxy(width, height))
    return located(box if left < right and top < bottom else mask_box(mask))


def read_masks(codec: str, text: str, example: Example) -> list[dict[str, Any]]:
    """`{"box": [x0, y0, x1, y1], "label", "mask": RLE}` of each mask in generated text; no text raises."""
    width, height = example.images[0].size
    found = load_codec(codec).read(text, height, width)
    return [
        {"box": list(box.normalised_xyxy()), "label": box.label, "mask": encode_rle(mask.numpy())}
        for mask, box in zip(found.masks, found.boxes, strict=True)
    ]


def true_masks(example: Example) -> list[dict[str, Any]]:
    """The ground truth of an example in the form of `read_masks`."""
    return [box_dict(box) | {"mask": mask} for box, mask in zip(example.boxes, example.masks, strict=True)]
