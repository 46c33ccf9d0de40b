"""The mask VQ-VAE: a 64 x 64 mask as sixteen codes out of 128, and back.

Architecture and key names are those of the weights with which PaliGemma's segmentation tokens were made (Ning et
al., arXiv 2301.02229): four strided convolutions and two residual blocks, the codebook, and the same in reverse.
Masks are in [-1, 1] inside the network: -1 is outside, 1 inside.
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
    """What `MaskVQVAE` returns in training.

    Args:
        loss: mean squared error of the reconstruction in [-1, 1], and the weighted commitment of the encoder.
        reconstruction: float[B, S, S], positive inside.
        codes: int[B, N], the codes in use for each mask.
    """

    loss: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None
    codes: torch.Tensor | None = None


class ReadMasks(NamedTuple):
    """Masks of one image that `MaskVQVAE.read` found.

    Attributes:
        masks: bool[n, H, W].
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
        """float[B, C, H, W] to the same."""
        return x + self.net(x)


def make_encoder(config: MaskVQVAEConfig) -> nn.Sequential:
    """float[B, 1, S, S] to float[B, D, G, G]; positions in the sequence are part of the released key names."""
    layers: list[nn.Module] = []
    for before, after in zip([1, *config.channels], config.channels):
        layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.ReLU()]
    layers += [ResidualBlock(config.channels[-1]) for _ in range(config.num_residual_blocks)]
    return nn.Sequential(*layers, nn.Conv2d(config.channels[-1], config.codebook_dim, 1))


def make_decoder(config: MaskVQVAEConfig) -> nn.Sequential:
    """float[B, D, G, G] to float[B, 1, S, S]."""
    sizes = config.channels[::-1]
    layers: list[nn.Module] = [nn.Conv2d(config.codebook_dim, sizes[0], 1), nn.ReLU()]
    layers += [ResidualBlock(sizes[0]) for _ in range(config.num_residual_blocks)]
    for before, after in zip([sizes[0], *sizes], sizes):
        layers += [nn.ConvTranspose2d(before, after, 4, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(sizes[-1], 1, 1))


def squared_error(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Mean of the squared differences, float[], in float32 at least: two digits of a loss say nothing."""
    wide = torch.promote_types(found.dtype, torch.float32)
    return mse_loss(found.to(wide), wanted.to(wide))


class MaskVQVAE(PreTrainedModel):
    """Masks to codes and back; called with masks it gives the training loss.

    ```python
    >>> codec = MaskVQVAE.from_pretrained(folder)
    >>> text = codec.write(masks, ["dog", "cat"])  # bool[2, H, W]
    >>> codec.read(text, *masks.shape[1:]).masks
    ```
    """

    config: MaskVQVAEConfig  # pyright: ignore[reportIncompatibleVariableOverride]
    config_class = MaskVQVAEConfig
    base_model_prefix = "mask_vqvae"
    main_input_name = "masks"
    # moving averages of a hundredth a step are lost in 8 bits of precision
    _keep_in_fp32_modules_strict = {"_vq_vae"}
    accepts_loss_kwargs = False

    def __init__(self, config: MaskVQVAEConfig):
        super().__init__(config)
        self.encoder = make_encoder(config)
        self._vq_vae = MaskCodebook(config)
        self.decoder = make_decoder(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Torch's own initialisation: Transformers' normal of 0.02 is too small for ten layers without norms."""
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.reset_parameters()
        elif isinstance(module, MaskCodebook):
            module.init_weights()

    def forward(self, masks: torch.Tensor) -> MaskVQVAEOutput:
        """Reconstruct masks; in training mode this also moves the codebook.

        Args:
            masks: bool or float[B, S, S] in [0, 1].
        """
        target = self._scaled(masks)
        grid = self.encoder(target[:, None]).permute(0, 2, 3, 1)
        vectors = grid.flatten(0, 2)
        if self.training:
            self._vq_vae.revive(vectors.detach())
        codes = self._vq_vae.nearest(vectors.detach())
        quantized = self._vq_vae(codes).to(grid.dtype).view(grid.shape)
        commitment = squared_error(grid, quantized)
        if self.training:
            self._vq_vae.update(vectors.detach(), codes)
        # the gradient passes the codebook as if it were not there
        reconstruction = self._decoded(grid + (quantized - grid).detach())
        loss = squared_error(reconstruction, target) + self.config.commitment_cost * commitment
        return MaskVQVAEOutput(loss=loss, reconstruction=reconstruction, codes=codes.view(len(masks), -1))

    @torch.no_grad()
    def encode(self, masks: torch.Tensor) -> torch.Tensor:
        """The codes of masks.

        Args:
            masks: bool or float[B, 64, 64] in [0, 1], of the box's size, such as `crop_mask` makes.

        Returns:
            int[B, 16], the 4 x 4 grid row by row.

        Raises:
            ValueError: another shape, or values that are not in [0, 1].
        """
        if masks.is_floating_point() and masks.numel() and not 0 <= float(masks.min()) <= float(masks.max()) <= 1:
            raise ValueError("masks have values outside [0, 1]; divide bytes by 255")
        vectors = self.encoder(self._scaled(masks)[:, None]).permute(0, 2, 3, 1)
        return self._vq_vae.nearest(vectors.flatten(0, 2)).view(len(masks), -1)

    @torch.no_grad()
    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """The masks of codes.

        Args:
            codes: int[B, 16].

        Returns:
            float[B, 64, 64], about -1 outside and about 1 inside: a pixel is inside where it is positive.

        Raises:
            ValueError: another shape, or codes that the codebook lacks.
        """
        side, known = self.config.grid_size, self.config.codebook_size
        if codes.dim() != 2 or codes.shape[1] != side**2:
            raise ValueError(f"codes are int[B, {side**2}], and these are {list(codes.shape)}")
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < known:
            raise ValueError(f"codes are 0 to {known - 1}, and these are {int(codes.min())} to {int(codes.max())}")
        vectors = self._vq_vae(codes.to(self.device).long()).to(self.dtype)
        return self._decoded(vectors.view(len(codes), side, side, -1))

    def write(self, masks: torch.Tensor, labels: Sequence[str] = (), boxes: Sequence[LocatedBox] | None = None) -> str:
        """The text of masks of one image, as PaliGemma and PaLI-3 write it.

        Args:
            masks: bool[n, H, W].
            labels: of each mask; none when left out, as in referring segmentation.
            boxes: of each mask; the tightest ones when left out. A label comes from `labels` all the same.

        Raises:
            ValueError: an empty mask, a box without a pixel, a label that could not be read back, or a codebook
                other than 128 codes of 16 to a mask.
        """
        if boxes is None:
            boxes = [mask_box(mask) for mask in masks]
        named = [box._replace(label=label) for box, label in zip(boxes, labels or [""] * len(masks), strict=True)]
        squares = [crop_mask(mask, box, self.config.image_size) for mask, box in zip(masks, named, strict=True)]
        codes = self.encode(torch.stack(squares).to(self.device, self.dtype)).tolist() if squares else []
        return format_segmentations(LocatedMask(box, tuple(row)) for box, row in zip(named, codes))

    def read(self, text: str, height: int, width: int, round_edges: bool = False) -> ReadMasks:
        """The masks that a model wrote for an image of that size in pixels. No text makes it raise.

        Parts that are no mask, or whose box covers no pixel of the image, are in `rejected` with the reason.
        `round_edges` is that of `paste_mask`: nearer to the truth, and not what the authors score.
        """
        found, rejected = parse_segmentations(text)
        decoded = self.decode(torch.tensor([mask.codes for mask in found])) if found else ()
        masks, boxes = [], []
        for (box, codes), values in zip(found, decoded):
            mask = paste_mask(values, box, height, width, round_edges)
            if mask is None:
                part = format_segmentations([LocatedMask(box, codes)])
                rejected.append(Rejected(part, f"the box covers no pixel of an image of {height} x {width}"))
            else:
                masks.append(mask)
                boxes.append(box)
        empty = torch.zeros(0, height, width, dtype=torch.bool, device=self.device)
        return ReadMasks(torch.stack(masks) if masks else empty, boxes, rejected)

    def _scaled(self, masks: torch.Tensor) -> torch.Tensor:
        """float[B, S, S] in [-1, 1]."""
        side = self.config.image_size
        if masks.dim() != 3 or masks.shape[1:] != (side, side):
            raise ValueError(f"masks are [B, {side}, {side}], and these are {list(masks.shape)}; crop_mask makes them")
        if masks.dtype != torch.bool and not masks.is_floating_point():
            raise ValueError(f"masks are bool or float in [0, 1], not {masks.dtype}: use masks > 0, or divide by 255")
        return 2 * masks.to(self.device, self.dtype) - 1

    def _decoded(self, grid: torch.Tensor) -> torch.Tensor:
        """float[B, S, S] from float[B, G, G, D]."""
        return self.decoder(grid.permute(0, 3, 1, 2))[:, 0]


__all__ = ["MaskVQVAE"]
