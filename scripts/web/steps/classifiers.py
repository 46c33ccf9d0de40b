"""Classifiers of images and texts of Transformers, loaded once in each process, on its GPU where it has one."""

import functools
from typing import Any

import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

from openpali.eval.groups.toxicity import text_classifier
from openpali.modeling.checkpoints import load_checkpoint, reading
from openpali.modeling.dtypes import requested_dtype


@functools.cache
def image_classifier(name: str, dtype: str) -> Any:
    """The pipeline of an image classifier, loaded once in each process. Raises CheckpointError."""
    model: Any = load_checkpoint(AutoModelForImageClassification, name, dtype=requested_dtype(dtype))
    with reading(name):
        processor = AutoImageProcessor.from_pretrained(name)
    return pipeline("image-classification", model=model, image_processor=processor, device=_device(), batch_size=64)


@functools.cache
def caption_classifier(name: str, dtype: str) -> Any:
    """The pipeline of a text classifier, loaded once in each process. Raises CheckpointError."""
    return text_classifier(name, _device(), dtype=requested_dtype(dtype))


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
