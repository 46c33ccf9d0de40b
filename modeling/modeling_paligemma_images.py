"""Image parts of PaliGemma in the papers' comparisons: another projector, and no image encoder.

Shapes: `N` images, `P` tokens of an image, `D` width of the text model (`D_vision`: of the image encoder), `H W`
pixels.
"""

from typing import Any

import torch
from torch import nn
from transformers import PaliGemmaConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.paligemma import modeling_paligemma as stock


class PaliGemmaProjector(stock.PaliGemmaMultiModalProjector):
    """Project image features of any width to the text model's width, with or without a hidden layer."""

    def __init__(self, config: PaliGemmaConfig, features: int, mlp: bool):
        super().__init__(config)
        width = self.linear.out_features
        self.hidden = nn.Linear(features, width) if mlp else None
        self.linear = nn.Linear(width if mlp else features, width)

    def forward(self, image_features: torch.Tensor) -> torch.Tensor:
        """float[N, P, D_vision] -> float[N, P, D]."""
        if self.hidden is not None:
            image_features = nn.functional.gelu(self.hidden(image_features), approximate="tanh")  # [N, P, D]
        return self.linear(image_features)


class RawPatches(nn.Module):
    """No image encoder: the pixels of each patch are its features (PaliGemma, the comparison with Fuyu)."""

    def __init__(self, patch_size: int):
        super().__init__()
        self.patch_size = patch_size

    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """float[N, 3, H, W] -> features float[N, P, 3 * patch_size**2], patches in raster order."""
        patches = nn.functional.unfold(pixel_values, self.patch_size, stride=self.patch_size)  # [N, D_vision, P]
        return BaseModelOutputWithPooling(last_hidden_state=patches.transpose(1, 2))
