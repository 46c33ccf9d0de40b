"""Configuration of the mask tokenizer (VQ-VAE) behind PaliGemma's and PaLI-3's segmentation tokens."""

from typing import Any

from transformers import PreTrainedConfig


class MaskVQVAEConfig(PreTrainedConfig):
    r"""Configuration of [`MaskVQVAE`]. `MaskVQVAEConfig()` is the released model: 2,050,929 values.

    Args:
        image_size (`int`, *optional*, defaults to 64):
            Side of the masks in pixels.
        channels (`list[int]`, *optional*, defaults to `[16, 32, 64, 128]`):
            Channels after each convolution that halves the side; the decoder has them in reverse.
        num_residual_blocks (`int`, *optional*, defaults to 2):
            In the encoder, and again in the decoder.
        codebook_size (`int`, *optional*, defaults to 128):
            Number of codes.
        codebook_dim (`int`, *optional*, defaults to 512):
            Length of a code's vector.
        commitment_cost (`float`, *optional*, defaults to 0.25):
            Weight of the encoder's distance to its codes in the training loss.
        codebook_decay (`float`, *optional*, defaults to 0.99):
            Decay of the codebook's moving averages.
        dead_code_threshold (`float`, *optional*, defaults to 0.02):
            A code used less than this share of the average code is moved to a vector of the current batch. 0: never.

    Example:

    ```python
    >>> from openpali import MaskVQVAE
    >>> from openpali.modeling.configuration_mask_vqvae import MaskVQVAEConfig

    >>> model = MaskVQVAE(MaskVQVAEConfig())
    ```"""

    model_type = "mask_vqvae"

    image_size: int = 64
    # a list in files; None here, since a class attribute must not be mutable
    channels: Any = None
    num_residual_blocks: int = 2
    codebook_size: int = 128
    codebook_dim: int = 512
    commitment_cost: float = 0.25
    codebook_decay: float = 0.99
    dead_code_threshold: float = 0.02

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.channels = list(self.channels or (16, 32, 64, 128))
        if self.image_size % 2 ** len(self.channels):
            raise ValueError(
                f"image_size {self.image_size} cannot be halved {len(self.channels)} times, once for each of channels"
            )

    @property
    def grid_size(self) -> int:
        """Side of the grid of codes: 4 of the released model."""
        return self.image_size // 2 ** len(self.channels)


__all__ = ["MaskVQVAEConfig"]
