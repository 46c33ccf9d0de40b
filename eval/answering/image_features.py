"""Features of images, computed once for several prompts about each image.

PaLI-3 and PaliGemma take `image_features` in place of `pixel_values`. Other models encode an image for each prompt.
"""

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from transformers import BatchFeature, PreTrainedModel

from openpali.eval.answering.decoding import eval_mode
from openpali.eval.prompts.other_models import takes_prefixes


class ImageFeatures:
    """Features of images that are asked about, in the place of a processor's image processor."""

    def __init__(self, model: PreTrainedModel, processor: Any, images: Sequence[Image.Image], batch_size: int) -> None:
        """Encode images, `batch_size` at a time; the objects themselves are looked up later, so they must live on."""
        encoder: Any = model.get_encoder(modality="image")
        self.valid_kwargs = processor.image_processor.valid_kwargs
        self.of_image: dict[int, torch.Tensor] = {}
        for start in range(0, len(images), batch_size):
            some = images[start : start + batch_size]
            pixels = processor.image_processor(some, return_tensors="pt")["pixel_values"]  # [N, 3, H, W]
            with eval_mode(model):
                found = encoder(pixel_values=pixels.to(model.device, model.dtype)).last_hidden_state  # [N, P, D]
            self.of_image |= {id(image): features for image, features in zip(some, found, strict=True)}

    def fetch_images(self, images: Any) -> Any:
        """The images; nothing has to be fetched."""
        return images

    def __call__(self, images: Sequence[Image.Image], **options: Any) -> BatchFeature:
        """`pixel_values`: float[N, P, D], the features of these images under the key that a processor expects."""
        return BatchFeature({"pixel_values": torch.stack([self.of_image[id(image)] for image in images])})

    def in_place_of_images(self, processor: Any) -> Any:
        """A copy of a processor whose `pixel_values` are features."""
        changed = copy.copy(processor)
        changed.image_processor = self
        return changed


def takes_features(model: PreTrainedModel, processor: Any) -> bool:
    """Whether a model answers from `image_features`, and its processor from images that are encoded."""
    return takes_prefixes(processor) and "image_features" in inspect.signature(model.forward).parameters
