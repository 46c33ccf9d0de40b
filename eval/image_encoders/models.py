"""Loading of image encoders: SigLIP's two towers, an encoder with a classifier or a decoder, or an encoder alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    PreTrainedModel,
)

from openpali.data.images.naflex import NaFlexImageProcessor
from openpali.eval.answering.load_model import warn_slow
from openpali.eval.image_encoders.embedding import POOLINGS, has_head
from openpali.modeling.captioner.modeling_captioner import Captioner
from openpali.modeling.checkpoints import load_checkpoint, load_config, reading
from openpali.modeling.dtypes import requested_dtype
from openpali.modeling.processing_tokenizer import load_tokenizer

TWO_TOWERS = ("siglip", "siglip2")
IMAGE_TOWERS = ("siglip_vision_model", "siglip2_vision_model")
# an image tower with a decoder that scores texts
CAPTIONERS = ("captioner",)
CLASSIFIER = "ForImageClassification"


@dataclass(frozen=True)
class Encoder:
    """An image encoder, perhaps with a text tower.

    Attributes:
        name: in tables.
        model: in evaluation mode.
        image_processor: of the model.
        tokenizer: None for a model without a text tower or a decoder.
        pooling: of the features for the linear probe.
    """

    name: str
    model: PreTrainedModel
    image_processor: Any
    tokenizer: Any
    pooling: str

    @property
    def poolings(self) -> list[str]:
        """All poolings that are needed: a model with two towers embeds images with its head."""
        return sorted({self.pooling} | ({"head"} if self.has_text_tower else set()))

    @property
    def is_captioner(self) -> bool:
        """Whether it scores texts with a decoder."""
        return isinstance(self.model, Captioner)

    @property
    def has_text_tower(self) -> bool:
        """Whether it embeds texts."""
        return self.tokenizer is not None and not self.is_captioner


def load_encoder(
    checkpoint: str,
    device: str,
    pooling: str = "auto",
    name: str | None = None,
    dtype: str = "auto",
    incomplete: bool = False,
    image_tokens: int | None = None,
) -> Encoder:
    """Load a SigLIP of any kind, or a captioner.

    Args:
        checkpoint: folder or Hub name.
        device: such as "cuda:0" or "cpu".
        pooling: one of `POOLINGS`, or `auto`, that of the training: the mean of the tokens for a classifier of
            Transformers, and the pooling head for others that have one.
        name: in tables; the checkpoint when None.
        dtype: of the weights: "float32", "bfloat16", "float16", or "auto", which is the checkpoint's own.
        incomplete: accept a checkpoint that lacks weights.
        image_tokens: most tokens of an image for a NaFlex encoder; its processor's own number when None. Others have a
            fixed number.

    Raises:
        ValueError: the checkpoint is neither, or the pooling is unknown or missing.
        OSError: there is no such checkpoint, or its weights do not fit the model.
    """
    if pooling not in ("auto", *POOLINGS):
        raise ValueError(f"pooling is one of auto, {', '.join(POOLINGS)}, not {pooling!r}")
    config = load_config(checkpoint)
    if config.model_type not in TWO_TOWERS + IMAGE_TOWERS + CAPTIONERS:
        known = ", ".join(TWO_TOWERS + IMAGE_TOWERS + CAPTIONERS)
        raise ValueError(f"{checkpoint} is of the type {config.model_type}; this reads {known}")
    # a classifier has the configuration of two towers; only the architecture differs
    classifier = CLASSIFIER in (config.architectures or [""])[0]
    kind = AutoModelForImageClassification if classifier else AutoModel
    model: Any = load_checkpoint(kind, checkpoint, incomplete=incomplete, dtype=requested_dtype(dtype))
    model = model.to(torch.device(device)).eval()
    if dtype == "auto":
        warn_slow(checkpoint, model, device)
    texts = config.model_type in TWO_TOWERS and not classifier
    if pooling == "auto":
        pooling = "head" if has_head(model) and not classifier else "mean"
    if not has_head(model) and (pooling == "head" or texts):
        raise ValueError(f"{checkpoint} has no pooling head")
    with reading(checkpoint):
        image_processor = AutoImageProcessor.from_pretrained(checkpoint)
        reads = texts or config.model_type in CAPTIONERS
        tokenizer = load_tokenizer(checkpoint) if reads else None
    if is_naflex(config):
        image_processor = NaFlexImageProcessor.of(image_processor)
        image_processor.patch_size = getattr(config, "vision_config", config).patch_size
        image_processor.max_num_patches = image_tokens or image_processor.max_num_patches
    return Encoder(name or checkpoint, model, image_processor, tokenizer, pooling)


def is_naflex(config: Any) -> bool:
    """Whether an encoder takes images of any aspect ratio as sequences of patches."""
    return config.model_type in ("siglip2", "siglip2_vision_model")


def short_names(checkpoints: Sequence[str]) -> list[str]:
    """Last parts of the checkpoints' names, or the full names where the last parts are not unique."""
    short = [Path(checkpoint).name or checkpoint for checkpoint in checkpoints]
    return short if len(set(short)) == len(short) else list(checkpoints)
