"""Checkpoints of steps: classifiers, loaded once in each process, and options that name a part of a checkpoint."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from huggingface_hub import constants
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

from openpali.eval.groups.toxicity import check_label, text_classifier
from openpali.modeling.checkpoints import is_folder_name, load_checkpoint, reading
from openpali.modeling.dtypes import requested_dtype
from openpali.modeling.user_errors import CheckpointError, UserError


class OptionError(UserError, ValueError):
    """An option that does not suit its checkpoint, found when the step is made or at its first batch."""


@contextmanager
def unless_offline(name: str) -> Iterator[None]:
    """Pass over a checkpoint of the Hub that cannot be read where the Hub is switched off: its step says so later."""
    try:
        yield
    except CheckpointError:
        if is_folder_name(name) or not constants.HF_HUB_OFFLINE:
            raise


@functools.cache
def label_of(classifier: str, label: str, option: str) -> str:
    """A label as its classifier spells it.

    Raises:
        OptionError: it has no such label; the message names those that it has.
        CheckpointError: its configuration cannot be read.
    """
    try:
        return check_label(classifier, label, option)
    except ValueError as error:
        raise OptionError(str(error)) from error


@functools.cache
def image_classifier(name: str, dtype: str) -> Any:
    """The pipeline of an image classifier. Raises CheckpointError."""
    model: Any = load_checkpoint(AutoModelForImageClassification, name, dtype=requested_dtype(dtype))
    with reading(name):
        processor = AutoImageProcessor.from_pretrained(name)
    return pipeline("image-classification", model=model, image_processor=processor, device=_device(), batch_size=64)


@functools.cache
def caption_classifier(name: str, dtype: str) -> Any:
    """The pipeline of a text classifier. Raises CheckpointError."""
    return text_classifier(name, _device(), dtype=requested_dtype(dtype))


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
