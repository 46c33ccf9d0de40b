"""Features of images, computed once for all prompts about an image.

PaLI-3 and PaliGemma take `image_features` in place of `pixel_values`. Other models encode an image for each prompt.
Images are the same if their pixels are, wherever they come from: every question of a dataset decodes its image anew.
"""

import copy
import inspect
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchFeature, PreTrainedModel

from openpali.data.images.lazy_image import image_key
from openpali.eval.answering.sharded import is_sharded
from openpali.eval.prompts.other_models import takes_prefixes
from openpali.modeling.image_patches import encode_patches

MEMORY = 2**30
"""Bytes of features that are kept: about 900 images at 224 px in float32, 110 at 896 px in bfloat16."""


class ImageFeatures:
    """Features of images, in the place of a processor's image processor.

    Those that were used last are kept in the main memory. The model must not be trained meanwhile.
    """

    def __init__(self, model: PreTrainedModel, processor: Any, batch_size: int, memory: int = MEMORY) -> None:
        """Make an empty store.

        Args:
            model: of the image encoder.
            processor: of the model.
            batch_size: images that are encoded together.
            memory: bytes of features to keep.
        """
        self.model, self.image_processor = model, processor.image_processor
        self.valid_kwargs = processor.image_processor.valid_kwargs
        self.batch_size, self.memory, self.used = batch_size, memory, 0
        self.kept: OrderedDict[bytes, torch.Tensor] = OrderedDict()
        # rows and columns of patches, of images of any aspect ratio
        self.any_aspect_ratio, self.shapes = processor.any_aspect_ratio, dict[bytes, tuple[int, int]]()

    def fetch_images(self, images: Any) -> Any:
        """The images; nothing has to be fetched."""
        return images

    def __call__(self, images: Sequence[Image.Image], **options: Any) -> BatchFeature:
        """Features of these images under the keys that a processor expects.

        Returns:
            `pixel_values`: float[N, P, D]; of images of any aspect ratio padded, with `spatial_shapes`: int[N, 2].
        """
        keys = [image_key(image) for image in images]
        found = {key: self.kept[key].to(self.model.device) for key in keys if key in self.kept}
        missing = {key: image for key, image in zip(keys, images) if key not in found}
        found |= self.encode(missing, options)
        for key in dict.fromkeys(keys):
            self.keep(key, found[key])
        data = {"pixel_values": pad_sequence([found[key] for key in keys], batch_first=True)}
        if self.any_aspect_ratio:
            data["spatial_shapes"] = torch.tensor([self.shapes[key] for key in keys])
        return BatchFeature(data)

    def encode(self, images: dict[bytes, Image.Image], options: dict[str, Any]) -> dict[bytes, torch.Tensor]:
        """Features of images by key, float[P, D] each, on the model's device."""
        encoder: Any = self.model.get_encoder(modality="image")
        keys, found = list(images), {}
        for start in range(0, len(keys), self.batch_size):
            some = keys[start : start + self.batch_size]
            prepared = self.image_processor([images[key] for key in some], **{**options, "return_tensors": "pt"})
            pixels = prepared["pixel_values"].to(self.model.device, self.model.dtype)  # [N, 3, H, W]
            if not self.any_aspect_ratio:
                found |= zip(some, encoder(pixel_values=pixels).last_hidden_state, strict=True)  # [N, P, D]
                continue
            shapes = prepared["spatial_shapes"]
            rows: Any = encode_patches(encoder, pixels, shapes.to(self.model.device)).last_hidden_state
            for key, features, (height, width) in zip(some, rows, shapes.tolist(), strict=True):
                self.shapes[key], found[key] = (height, width), features[: height * width]
        return found

    def keep(self, key: bytes, features: torch.Tensor) -> None:
        """Keep features as the ones used last; the ones used longest ago leave."""
        if key in self.kept:
            self.kept.move_to_end(key)
            return
        if features.nbytes > self.memory:
            return
        # a copy, since a row of a batch would keep the whole batch in memory
        self.kept[key] = features.to("cpu", copy=True)
        self.used += features.nbytes
        while self.used > self.memory:
            self.used -= self.kept.popitem(last=False)[1].nbytes

    def in_place_of_images(self, processor: Any) -> Any:
        """A copy of a processor whose `pixel_values` are features."""
        changed = copy.copy(processor)
        changed.image_processor = self
        return changed


def image_features(model: PreTrainedModel, processor: Any, batch_size: int) -> ImageFeatures | None:
    """An empty store for a model that answers from features, None for any other."""
    return ImageFeatures(model, processor, batch_size) if takes_features(model, processor) else None


def takes_features(model: PreTrainedModel, processor: Any) -> bool:
    """Whether a model answers from `image_features`, and its processor from images that are encoded.

    The encoder of a sharded model runs as a part of the whole only.
    """
    if is_sharded(model):
        return False
    if not takes_prefixes(processor) or "image_features" not in inspect.signature(model.forward).parameters:
        return False
    if processor.any_aspect_ratio:
        return True
    # features do not say how many rows of patches they have
    size = processor.image_processor.size
    return size["height"] == size["width"]
