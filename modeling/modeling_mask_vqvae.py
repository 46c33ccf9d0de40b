"""The mask tokenizer: a VQ-VAE between masks of 64 x 64 pixels and sixteen codes out of 128.

Architecture and key names are those of the weights behind PaliGemma's segmentation tokens (Ning et al., arXiv
2301.02229): four strided convolutions and two residual blocks, the codebook, and the same in reverse. Inside the
network a mask is in [-1, 1]: -1 is outside, 1 inside.

Shapes: `B` masks, `C` channels, `D` width of a code, `G` side of the grid of codes, `H W` pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import mse_loss
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from .configuration_mask_vqvae import MaskVQVAEConfig
from .location_tokens import LocatedBox, Rejected
from .mask_codebook import MaskCodebook
from .mask_pixels import crop_mask, mask_box, paste_mask
from .segmentation_tokens import LocatedMask, format_segmentations, parse_segmentations


@dataclass
class MaskVQVAEOutput(ModelOutput):
    """Output of `MaskVQVAE` in training.

    Args:
        loss: mean squared error of the reconstruction in [-1, 1], plus the weighted commitment loss of the encoder.
        reconstruction: float[B, H, W], positive inside.
        codes: int[B, G * G], the codes of each mask.
    """

    loss: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None
    codes: torch.Tensor | None = None


class ReadMasks(NamedTuple):
    """Output of `MaskVQVAE.read`: the masks of one image.

    Attributes:
        masks: bool[B, H, W].
        boxes: of each mask, with its label.
        rejected: parts of the text that are no mask of this image, and why.
    """

    masks: torch.Tensor
    boxes: list[LocatedBox]
    rejected: list[Rejected]


class ResidualBlock(nn.Module):
    """x + conv1(relu(conv3(relu(conv3(x)))))."""

    def __init__(self, channels: int):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float[B, C, H, W] -> float[B, C, H, W]."""
        return x + self.net(x)


def make_encoder(config: MaskVQVAEConfig) -> nn.Sequential:
    """Layers float[B, 1, H, W] -> float[B, D, G, G]; their positions are part of the released key names."""
    layers: list[nn.Module] = []
    for before, after in zip([1, *config.channels], config.channels):
        layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.ReLU()]
    layers += [ResidualBlock(config.channels[-1]) for _ in range(config.num_residual_blocks)]
    return nn.Sequential(*layers, nn.Conv2d(config.channels[-1], config.codebook_dim, 1))


def make_decoder(config: MaskVQVAEConfig) -> nn.Sequential:
    """Layers float[B, D, G, G] -> float[B, 1, H, W]."""
    sizes = config.channels[::-1]
    layers: list[nn.Module] = [nn.Conv2d(config.codebook_dim, sizes[0], 1), nn.ReLU()]
    layers += [ResidualBlock(sizes[0]) for _ in range(config.num_residual_blocks)]
    for before, after in zip([sizes[0], *sizes], sizes):
        layers += [nn.ConvTranspose2d(before, after, 4, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(sizes[-1], 1, 1))


def squared_error(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean squared error, float[], in float32 at least, since a loss in bfloat16 has two digits."""
    dtype = torch.promote_types(output.dtype, torch.float32)
    return mse_loss(output.to(dtype), target.to(dtype))


class MaskVQVAE(PreTrainedModel):
    """Mask tokenizer: masks to codes (`encode`), codes to masks (`decode`), and both as text (`write`, `read`).

    ```python
    >>> mask_tokenizer = MaskVQVAE.from_pretrained(folder)
    >>> text = mask_tokenizer.write(masks, ["dog", "cat"])  # bool[2, H, W]
    >>> mask_tokenizer.read(text, *masks.shape[1:]).masks
    ```
    """

    config: MaskVQVAEConfig  # pyright: ignore[reportIncompatibleVariableOverride]
    config_class = MaskVQVAEConfig
    base_model_prefix = "mask_vqvae"
    main_input_name = "masks"
    # bfloat16 would lose the codebook's moving averages, which change by a hundredth a step
    _keep_in_fp32_modules_strict = {"_vq_vae"}
    accepts_loss_kwargs = False

    def __init__(self, config: MaskVQVAEConfig):
        super().__init__(config)
        self.encoder = make_encoder(config)
        self._vq_vae = MaskCodebook(config)
        self.decoder = make_decoder(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Initialise as torch does: Transformers' deviation of 0.02 is too small for ten layers without norms."""
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.reset_parameters()
        elif isinstance(module, MaskCodebook):
            module.init_weights()

    def forward(self, masks: torch.Tensor) -> MaskVQVAEOutput:
        """Reconstruct masks and compute the loss; in training mode also update the codebook.

        Args:
            masks: bool or float[B, H, W] in [0, 1].
        """
        target = self._scale(masks)  # [B, H, W]
        grid = self.encoder(target[:, None]).permute(0, 2, 3, 1)  # [B, G, G, D]
        vectors = grid.flatten(0, 2)  # [B * G * G, D]
        if self.training:
            self._vq_vae.revive(vectors.detach())
        codes = self._vq_vae.nearest(vectors.detach())  # [B * G * G]
        quantized = self._vq_vae(codes).to(grid.dtype).view(grid.shape)  # [B, G, G, D]
        commitment = squared_error(grid, quantized)
        if self.training:
            self._vq_vae.update(vectors.detach(), codes)
        # straight-through estimator: the gradient skips the codebook
        reconstruction = self._decode_grid(grid + (quantized - grid).detach())  # [B, H, W]
        loss = squared_error(reconstruction, target) + self.config.commitment_cost * commitment
        return MaskVQVAEOutput(loss=loss, reconstruction=reconstruction, codes=codes.view(len(masks), -1))

    @torch.no_grad()
    def encode(self, masks: torch.Tensor) -> torch.Tensor:
        """Encode masks as codes.

        Args:
            masks: bool or float[B, 64, 64] in [0, 1], cropped to their boxes by `crop_mask`.

        Returns:
            int[B, 16], the 4 x 4 grid row by row.

        Raises:
            ValueError: another shape, or values outside [0, 1].
        """
        if masks.is_floating_point() and masks.numel() and not 0 <= float(masks.min()) <= float(masks.max()) <= 1:
            raise ValueError("masks have values outside [0, 1]; divide bytes by 255")
        vectors = self.encoder(self._scale(masks)[:, None]).permute(0, 2, 3, 1)  # [B, G, G, D]
        return self._vq_vae.nearest(vectors.flatten(0, 2)).view(len(masks), -1)

    @torch.no_grad()
    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Decode codes as masks.

        Args:
            codes: int[B, 16].

        Returns:
            float[B, 64, 64], about -1 outside and about 1 inside; a positive pixel is inside.

        Raises:
            ValueError: another shape, or codes outside the codebook.
        """
        side, known = self.config.grid_size, self.config.codebook_size
        if codes.dim() != 2 or codes.shape[1] != side**2:
            raise ValueError(f"codes are int[B, {side**2}], and these are {list(codes.shape)}")
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < known:
            raise ValueError(f"codes are 0 to {known - 1}, and these are {int(codes.min())} to {int(codes.max())}")
        vectors = self._vq_vae(codes.to(self.device).long()).to(self.dtype)  # [B, G * G, D]
        return self._decode_grid(vectors.view(len(codes), side, side, -1))

    def write(self, masks: torch.Tensor, labels: Sequence[str] = (), boxes: Sequence[LocatedBox] | None = None) -> str:
        """Write masks of one image as text, in PaliGemma's and PaLI-3's format.

        Args:
            masks: bool[B, H, W].
            labels: of each mask; none when left out, as in referring segmentation.
            boxes: of each mask; the tightest ones when left out. Their labels are not used.

        Raises:
            ValueError: an empty mask, a box without a pixel, a label that could not be read back, or a codebook
                other than 128 codes of 16 to a mask.
        """
        if boxes is None:
            boxes = [mask_box(mask) for mask in masks]
        named = [box._replace(label=label) for box, label in zip(boxes, labels or [""] * len(masks), strict=True)]
        codes = self.encode_located(masks, named)
        return format_segmentations(LocatedMask(box, tuple(row)) for box, row in zip(named, codes))

    def encode_located(
        self, masks: Sequence[torch.Tensor] | torch.Tensor, boxes: Sequence[LocatedBox]
    ) -> list[list[int]]:
        """The codes of masks in their boxes, 16 integers each.

        Args:
            masks: bool[H, W] each.
            boxes: of each mask.

        Raises:
            ValueError: a box without a pixel.
        """
        squares = [crop_mask(mask, box, self.config.image_size) for mask, box in zip(masks, boxes, strict=True)]
        return self.encode(torch.stack(squares).to(self.device, self.dtype)).tolist() if squares else []

    def read(self, text: str, height: int, width: int, round_edges: bool = False) -> ReadMasks:
        """Read the masks of a model's text for an image of that size in pixels. No text raises an error.

        Parts that are no mask, or whose box covers no pixel of the image, are in `rejected` with the reason.
        `round_edges` is that of `paste_mask`: nearer to the ground truth, but not PaliGemma's evaluation.
        """
        parsed, rejected = parse_segmentations(text)
        decoded = self.decode(torch.tensor([mask.codes for mask in parsed])) if parsed else ()
        masks, boxes = [], []
        for (box, codes), values in zip(parsed, decoded):
            mask = paste_mask(values, box, height, width, round_edges)
            if mask is None:
                part = format_segmentations([LocatedMask(box, codes)])
                rejected.append(Rejected(part, f"the box covers no pixel of an image of {height} x {width}"))
            else:
                masks.append(mask)
                boxes.append(box)
        empty = torch.zeros(0, height, width, dtype=torch.bool, device=self.device)
        return ReadMasks(torch.stack(masks) if masks else empty, boxes, rejected)

    def _scale(self, masks: torch.Tensor) -> torch.Tensor:
        """Check masks and scale them to float[B, H, W] in [-1, 1]."""
        side = self.config.image_size
        if masks.dim() != 3 or masks.shape[1:] != (side, side):
            raise ValueError(f"masks are [B, {side}, {side}], and these are {list(masks.shape)}; crop_mask makes them")
        if masks.dtype != torch.bool and not masks.is_floating_point():
            raise ValueError(f"masks are bool or float in [0, 1], not {masks.dtype}: use masks > 0, or divide by 255")
        return 2 * masks.to(self.device, self.dtype) - 1

    def _decode_grid(self, grid: torch.Tensor) -> torch.Tensor:
        """float[B, G, G, D] -> float[B, H, W]."""
        return self.decoder(grid.permute(0, 3, 1, 2))[:, 0]


__all__ = ["MaskVQVAE"]
