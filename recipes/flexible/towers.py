"""Towers of stage 0 that take images of any aspect ratio, or patches of several sizes."""

from collections.abc import Sequence
from typing import Any

from openpali.data.files.config import ConfigError
from openpali.data.images.naflex import NaFlexImageProcessor
from openpali.modeling.checkpoints import CheckpointError, load_checkpoint
from openpali.modeling.flexible_patches import make_flexible, set_patch_size
from openpali.modeling.modeling_siglip import SiglipForContrastiveLearning
from openpali.modeling.modeling_siglip2 import Siglip2ForContrastiveLearning, to_naflex

TWO_TOWERS = {"siglip": SiglipForContrastiveLearning, "siglip2": Siglip2ForContrastiveLearning}


def is_naflex(model: Any) -> bool:
    """Whether a model takes sequences of patches in place of square images."""
    return model.config.model_type == "siglip2"


def load_towers(name: str, config: Any, naflex: bool, incomplete: bool) -> Any:
    """The towers of a whole checkpoint for training; square ones become NaFlex ones where those are wanted.

    Raises:
        CheckpointError: the checkpoint is of another kind, or is not complete.
    """
    kind = TWO_TOWERS.get(config.model_type)
    if kind is None:
        known = ", ".join(TWO_TOWERS)
        raise CheckpointError(f"{name} is a model of the type {config.model_type}, and one of {known} is wanted")
    model: Any = load_checkpoint(kind, name, config=config, dtype="float32", incomplete=incomplete)
    return to_naflex(model, Siglip2ForContrastiveLearning) if naflex and not is_naflex(model) else model


def set_patches(model: Any, patch_size: int | None, patch_sizes: Sequence[int], image_size: int | None) -> None:
    """Convert the image tower to another patch size, and prepare it for several, in place.

    Args:
        model: holds a SigLIP image tower.
        patch_size: to convert to; none when None.
        patch_sizes: that steps draw from; none when empty.
        image_size: side of the images that steps will have; the model's when None.

    Raises:
        ConfigError: a patch is larger than the image, or the tower is one with NaFlex.
    """
    if not (patch_size or patch_sizes):
        return
    if is_naflex(model):
        raise ConfigError("patch_size, patch_sizes: towers with NaFlex have one patch size; give sequence_lengths")
    side = image_size or model.vision_model.config.image_size
    for size in (*patch_sizes, *([] if patch_size is None else [patch_size])):
        if not 1 <= size <= side:
            raise ConfigError(f"a patch of {size} pixels: from 1 to the image's {side} pixels")
    if patch_size:
        set_patch_size(model, patch_size)
    if patch_sizes:
        make_flexible(model)


def naflex_image_processor(model: Any, stock: Any, sequence_lengths: Sequence[int]) -> NaFlexImageProcessor:
    """The image processor of towers with NaFlex; outside training a sequence is as long as the longest of the run.

    Args:
        model: with NaFlex.
        stock: image processor of the checkpoint that the run starts from, or None.
        sequence_lengths: of the run; the tower's number of positions when empty.
    """
    config = model.vision_model.config
    known = type(stock).__name__.startswith("Siglip2ImageProcessor")
    processor = NaFlexImageProcessor.of(stock) if known else NaFlexImageProcessor()
    processor.patch_size = config.patch_size
    processor.max_num_patches = max(sequence_lengths, default=config.num_patches)
    return processor
