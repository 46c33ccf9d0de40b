"""Another image size for a SigLIP encoder, wherever it stands: position embeddings and configuration together."""

from typing import Any

import torch
from torch import nn
from torch.nn.functional import interpolate
from transformers import PreTrainedModel
from transformers.models.siglip.modeling_siglip import SiglipVisionEmbeddings


def resize_positions(table: torch.Tensor, side: int) -> torch.Tensor:
    """Position embeddings of a square image for another size, as the reference implementation resizes them.

    Args:
        table: float[old·old, D].
        side: patches along each side of the image that is wanted.

    Returns:
        float[side·side, D]: bilinear between the corners' centres (align_corners=True); unchanged at its own size.
    """
    old = round(len(table) ** 0.5)
    if old == side:
        return table
    grid = table.reshape(1, old, old, -1).permute(0, 3, 1, 2).float()
    resized = interpolate(grid, size=(side, side), mode="bilinear", align_corners=True)
    return resized.permute(0, 2, 3, 1).flatten(0, 2).to(table.dtype)


@torch.no_grad()
def set_image_size(model: PreTrainedModel, image_size: int) -> None:
    """Resize the position embeddings of a model's SigLIP encoder, and say so in its configuration.

    The processor has a size of its own, and PaLI models a number of image tokens: whoever changes this changes those.

    Args:
        model: holds one SigLIP image encoder at any depth.
        image_size: side of the images to come, in pixels; what does not fill a patch is cut off.

    Raises:
        ValueError: if there is no such encoder, or the image is smaller than a patch.
    """
    found: list[Any] = [module for module in model.modules() if isinstance(module, SiglipVisionEmbeddings)]
    if not found:
        raise ValueError(f"{type(model).__name__} has no SigLIP image encoder")
    for module in found:
        config = module.config
        side = image_size // config.patch_size
        if side < 1:
            raise ValueError(f"image_size={image_size} is smaller than a patch of {config.patch_size} pixels")
        weight = module.position_embedding.weight
        table = resize_positions(weight, side)
        module.position_embedding = nn.Embedding(len(table), table.shape[1], _weight=table.clone())
        module.position_embedding.weight.requires_grad_(weight.requires_grad)
        module.position_ids = torch.arange(len(table), device=weight.device)[None]
        module.num_patches = module.num_positions = len(table)
        module.image_size = config.image_size = image_size
