"""Models of Transformers that label images: loaded once in each process, on a GPU where there is one."""

import functools
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForMaskGeneration, AutoModelForZeroShotObjectDetection, AutoProcessor, Sam2Processor

from openpali.eval.answering.load_model import first_device, warn_slow
from openpali.modeling.checkpoints import load_checkpoint, load_config, reading
from openpali.modeling.dtypes import requested_dtype
from openpali.modeling.user_errors import CheckpointError

KINDS: dict[str, Any] = {"boxes": AutoModelForZeroShotObjectDetection, "masks": AutoModelForMaskGeneration}
TYPES = {
    "boxes": ("owlv2", "owlvit", "grounding-dino", "mm-grounding-dino"),
    "masks": ("sam", "sam_hq", "sam2", "sam2_video"),
}
MOST_ASPECT = 20
"""Longer images are not labelled: the image processors would make them less than a pixel wide."""
# of older releases, which newer ones compute
_BESIDE = (r"position_ids$",)


def check_label_model(labels: str, name: str) -> None:
    """Check that a checkpoint is there and makes these labels, without loading its weights.

    Args:
        labels: `boxes` or `masks`.
        name: folder or Hub name.

    Raises:
        ValueError: no name is given.
        CheckpointError: it cannot be read, or is another kind of model.
        ModuleNotFoundError: it needs a package that is missing.
    """
    if not name:
        raise ValueError(f"model: give the folder or Hub name of one of the types {', '.join(TYPES[labels])}")
    found = load_config(name).model_type
    if found not in TYPES[labels]:
        raise CheckpointError(
            f"{name} is a model of the type {found}, and {labels} are made by {', '.join(TYPES[labels])}"
        )
    if found.startswith("sam2") and find_spec("torchvision") is None:
        raise ModuleNotFoundError(f"{name} prepares images by torchvision, which is missing", name="torchvision")


@functools.cache
def load_label_model(labels: str, name: str, dtype: str) -> tuple[Any, Any]:
    """A model and its processor. Raises CheckpointError where it cannot be read, or has other weights."""
    device = first_device()
    loaded: Any = load_checkpoint(KINDS[labels], name, beside=_BESIDE, dtype=requested_dtype(dtype))
    # those of SAM 2 name a processor of videos
    kind: Any = Sam2Processor if loaded.config.model_type.startswith("sam2") else AutoProcessor
    with reading(name):
        processor = kind.from_pretrained(name)
    if dtype == "auto":
        warn_slow(name, loaded, device)
    return loaded.to(device).eval(), processor


@functools.cache
def label_model_name(name: str) -> str:
    """Name of a checkpoint, its revision where it is the Hub's, and the release of Transformers that ran it."""
    revision = getattr(load_config(name), "_commit_hash", None)
    return f"{name}{f'@{revision[:12]}' if revision else ''} (transformers {version('transformers')})"


def can_be_labelled(image: Image.Image) -> bool:
    """Whether a model's image processor can shrink an image."""
    return max(image.size) <= MOST_ASPECT * min(image.size)


def to_model(inputs: Any, model: Any, keys: Sequence[str] = ()) -> dict[str, Any]:
    """Inputs on the model's device, pixels in its type; those of some keys alone where these are given."""
    wanted = {key: value.to(model.device) for key, value in inputs.items() if not keys or key in keys}
    # places in pixels would be too coarse in 16 bits
    floats = {key: model.dtype if key == "pixel_values" else torch.float32 for key in wanted}
    return {key: value.to(floats[key]) if value.is_floating_point() else value for key, value in wanted.items()}
