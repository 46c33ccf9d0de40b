"""Initial weights as big_vision draws them, where Transformers draws others.

Transformers' SigLIP departs from the authors' code in patch embedding and text projection (14 % larger), and in the
attention pooling: probe, queries, keys and values are smaller by the square root of 2, and the output is drawn from
another distribution.
"""

from typing import Any

import torch
from torch import nn
from transformers import initialization as init

# standard deviation of a standard normal that is cut at two
STD_OF_CUT = 0.87962566103423978


def lecun_normal(weight: torch.Tensor) -> None:
    """Normal values of variance 1 / inputs, cut at two standard deviations; Transformers' own are cut at 2."""
    std = weight[0].numel() ** -0.5 / STD_OF_CUT
    init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


@torch.no_grad()
def draw_siglip(model: nn.Module) -> None:
    """Draw again what Transformers' classes start otherwise, in new image and text towers of any class of SigLIP.

    Args:
        model: a tower, or a model that has some.
    """
    module: Any
    for module in model.modules():
        if hasattr(module, "patch_embedding"):
            lecun_normal(module.patch_embedding.weight)
        if hasattr(module, "probe"):
            draw_pooling(module)
        # the projection of a text tower
        if hasattr(module, "final_layer_norm") and isinstance(getattr(module, "head", None), nn.Linear):
            lecun_normal(module.head.weight)


def draw_pooling(head: Any) -> None:
    """Attention pooling: Xavier-uniform probe, from 1 input to D, and D x D matrices."""
    bound = (6 / (1 + head.probe.shape[-1])) ** 0.5
    init.uniform_(head.probe, -bound, bound)
    for matrix in (*head.attention.in_proj_weight.chunk(3), head.attention.out_proj.weight):
        init.xavier_uniform_(matrix)
