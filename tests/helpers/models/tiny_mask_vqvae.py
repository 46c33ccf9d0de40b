"""A mask VQ-VAE of 8 x 8 masks, four codes each, and masks for it."""

from pathlib import Path

import torch

from openpali import MaskVQVAE
from openpali.modeling.configuration_mask_vqvae import MaskVQVAEConfig


def tiny(**options) -> MaskVQVAE:
    torch.manual_seed(0)
    shape = {"image_size": 8, "channels": [4, 8], "num_residual_blocks": 1, "codebook_size": 6, "codebook_dim": 5}
    return MaskVQVAE(MaskVQVAEConfig(**(shape | options)))


def save_codec(folder: Path) -> Path:
    """Save a model with 16 codes of 128 for a mask, as the models' tokens have."""
    torch.manual_seed(0)
    shape = {"image_size": 16, "channels": [4, 8], "num_residual_blocks": 1, "codebook_dim": 8}
    MaskVQVAE(MaskVQVAEConfig(**shape)).save_pretrained(folder)
    return folder


def blobs(count: int, side: int = 8, seed: int = 0) -> torch.Tensor:
    """bool[count, side, side], random half-planes."""
    generator = torch.Generator().manual_seed(seed)
    normals = torch.randn(count, 2, 1, 1, generator=generator)
    offsets = torch.randn(count, 1, 1, generator=generator) * 0.3
    axis = torch.linspace(-1, 1, side)
    return axis[:, None] * normals[:, 0] + axis * normals[:, 1] > offsets
