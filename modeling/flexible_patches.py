"""FlexiViT (arXiv 2212.08013): one image encoder for patches of several sizes.

The patch kernel keeps its size. For another size it is resampled so that a resized patch gives what the patch gave,
and the position embeddings are resized to the grid. The resampling is a constant matrix, so gradients reach the stored
kernel. Numbers are those of the authors' code (big_vision at 0127fb6).

- `FlexibleVisionEmbeddings` embeds at a patch size that is set for a forward pass (`at_patch_size`);
- `set_patch_size` converts a trained encoder for good: an ordinary SigLIP comes out.

Shapes: `B` images, `H W` their height and width, `C` channels, `D` width, `p` side of a patch, `h w` rows and columns
of patches.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.nn.functional import conv2d, interpolate
from transformers import PreTrainedModel
from transformers.models.siglip.modeling_siglip import SiglipVisionEmbeddings

from .image_patches import resize_square


# tensors that were made in inference mode could not be used in training afterwards
@lru_cache(maxsize=256)
@torch.inference_mode(False)
def axis_matrix(old: int, new: int) -> torch.Tensor:
    """float64[new, old], which resamples one axis of a kernel: the pseudo-inverse of the transposed resize matrix.

    The resize is bilinear without antialias, with half-pixel centres. Growing from `old` to `new`, a resized row and
    the resampled kernel have the inner product of the row and the kernel; shrinking, the nearest to it.
    """
    resize = interpolate(torch.eye(old, dtype=torch.float64)[:, None], size=new, mode="linear")[:, 0]  # [old, new]
    return torch.linalg.pinv(resize)


def resample_kernel(kernel: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resample a patch kernel, each axis by itself, which equals the joint pseudo-inverse where that has full rank.

    Args:
        kernel: float[D, C, p, p]; patches need not be square.
        size: rows and columns of the new kernel.

    Returns:
        float[D, C, *size]; the kernel itself where it has that size.
    """
    if tuple(kernel.shape[2:]) == tuple(size):
        return kernel
    rows, columns = (axis_matrix(old, new).to(kernel) for old, new in zip(kernel.shape[2:], size))
    return rows @ kernel @ columns.T


def resize_to_grid(table: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Resize position embeddings to a grid of patches: bilinear, half-pixel centres, antialiased when shrinking.

    Args:
        table: float[n, D] of a square grid.
        grid: rows and columns.

    Returns:
        float[h * w, D]; the table itself where it has that many rows, whatever their grid.
    """
    if len(table) == grid[0] * grid[1]:
        return table
    side = round(len(table) ** 0.5)
    return resize_square(table.reshape(side, side, -1), grid).flatten(0, 1)


class FlexibleVisionEmbeddings(SiglipVisionEmbeddings):
    """SigLIP's embeddings of patches, at any patch size; the weights and their names are the stock ones.

    Attributes:
        drawn: patch size of the next forward pass, an int or rows and columns; the kernel's own when None.
    """

    drawn: int | tuple[int, int] | None = None

    def forward(self, pixel_values: torch.Tensor, interpolate_pos_encoding: bool = False) -> torch.Tensor:
        """float[B, h * w, D] of float[B, C, H, W]; pixels at the right and bottom that fill no patch are dropped."""
        if self.drawn is None:
            return super().forward(pixel_values, interpolate_pos_encoding)
        size = (self.drawn, self.drawn) if isinstance(self.drawn, int) else self.drawn
        convolution = self.patch_embedding
        kernel = resample_kernel(convolution.weight, size)
        patches = conv2d(pixel_values.to(kernel.dtype), kernel, convolution.bias, stride=size)  # [B, D, h, w]
        grid = patches.shape[2], patches.shape[3]
        return patches.flatten(2).transpose(1, 2) + resize_to_grid(self.position_embedding.weight, grid)


def make_flexible(model: PreTrainedModel) -> None:
    """Give the SigLIP encoders of a model `FlexibleVisionEmbeddings`, in place; no weight changes."""
    for module in embeddings_of(model):
        module.__class__ = FlexibleVisionEmbeddings


@contextmanager
def at_patch_size(model: nn.Module, patch_size: int | tuple[int, int] | None) -> Iterator[None]:
    """Let the flexible encoders of a model embed patches of a size."""
    flexible = [module for module in model.modules() if isinstance(module, FlexibleVisionEmbeddings)]
    before = [module.drawn for module in flexible]
    try:
        for module in flexible:
            module.drawn = patch_size
        yield
    finally:
        for module, drawn in zip(flexible, before):
            module.drawn = drawn


@torch.no_grad()
def set_patch_size(model: PreTrainedModel, patch_size: int) -> None:
    """Convert the SigLIP encoders of a model to patches of another size, in place.

    Kernel and position embeddings become what a flexible encoder computes at that size, so an encoder that was trained
    at it gives the same features. Convert from the stored kernel, not from a converted one.

    Args:
        model: holds a SigLIP image encoder at any depth; its image size stays.
        patch_size: side of a patch in pixels.

    Raises:
        ValueError: there is no such encoder, or the patch is empty or larger than the image.
    """
    for module in embeddings_of(model):
        config = module.config
        if not 1 <= patch_size <= config.image_size:
            raise ValueError(f"patch_size={patch_size}: from 1 to the image's {config.image_size} pixels")
        old, grid = module.patch_embedding, config.image_size // patch_size
        kernel = resample_kernel(old.weight, (patch_size, patch_size))
        table = resize_to_grid(module.position_embedding.weight, (grid, grid))
        new: Any = nn.Conv2d(old.in_channels, old.out_channels, patch_size, patch_size, device=old.weight.device)
        new.weight, new.bias = nn.Parameter(kernel.clone()), old.bias
        new.weight.requires_grad_(old.weight.requires_grad)
        learned = module.position_embedding.weight.requires_grad
        module.patch_embedding = new
        module.position_embedding = nn.Embedding(len(table), table.shape[1], _weight=table.clone())
        module.position_embedding.weight.requires_grad_(learned)
        module.position_ids = torch.arange(len(table), device=table.device)[None]
        module.num_patches = module.num_positions = len(table)
        module.patch_size = config.patch_size = patch_size


def embeddings_of(model: PreTrainedModel) -> list[Any]:
    """The patch embeddings of the SigLIP encoders of a model.

    Raises:
        ValueError: there is none.
    """
    found = [module for module in model.modules() if isinstance(module, SiglipVisionEmbeddings)]
    if not found:
        raise ValueError(f"{type(model).__name__} has no SigLIP image encoder")
    return found
