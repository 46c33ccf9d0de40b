"""Crop masks of whole images to the squares that the mask VQ-VAE encodes, and paste decoded squares back.

Cropping rounds the edges of the box to pixels; pasting truncates them, and takes the box from the location tokens.
Both follow the code of PaliGemma's training data and evaluation.

Shapes: `H W` pixels.
"""

import torch
from torch.nn.functional import interpolate

from .location_tokens import LocatedBox


def mask_box(mask: torch.Tensor, label: str = "") -> LocatedBox:
    """The tightest box around a mask, bool[H, W].

    Raises:
        ValueError: the mask is empty.
    """
    rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
    if not len(rows):
        raise ValueError("a mask without a pixel has no box; leave it out")
    height, width = mask.shape
    edges = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return LocatedBox.from_pixel_xyxy(edges, width, height, label)


def crop_mask(mask: torch.Tensor, box: LocatedBox, side: int = 64) -> torch.Tensor:
    """Crop a mask to a box and resize it to the square that `MaskVQVAE.encode` takes.

    Args:
        mask: bool[H, W], integers (0 is outside) or float[H, W] in [0, 1].
        box: its edges are rounded to pixels, halves to even.
        side: of the square, in pixels.

    Returns:
        float[side, side] in [0, 1], resized bilinearly with antialiasing.

    Raises:
        ValueError: the box covers no pixel, or the mask has another shape.
    """
    if mask.dim() != 2:
        raise ValueError(f"a mask is [H, W], and this one's shape is {list(mask.shape)}")
    height, width = mask.shape
    left, top, right, bottom = (max(round(edge), 0) for edge in box.pixel_xyxy(width, height))
    window = mask[top:bottom, left:right]
    if not window.numel():
        raise ValueError(f"box {tuple(box[:4])} covers no pixel of a mask of {height} x {width}")
    return resize(window if window.is_floating_point() else window != 0, side, side).clamp(0, 1)


def paste_mask(
    values: torch.Tensor, box: LocatedBox, height: int, width: int, round_edges: bool = False
) -> torch.Tensor | None:
    """Paste a decoded square into the mask of a whole image.

    Args:
        values: float[side, side] of `MaskVQVAE.decode`, positive inside.
        box: its edges are truncated to pixels.
        height: of the image in pixels.
        width: likewise.
        round_edges: round them instead, which is nearer to the ground truth, but not PaliGemma's evaluation.

    Returns:
        bool[H, W]; None when no pixel is left between the edges, which PaliGemma's evaluation scores as 0.
    """
    edges = [min(max(edge, 0), end) for edge, end in zip(box.pixel_xyxy(width, height), (width, height) * 2)]
    left, top, right, bottom = (round(edge) if round_edges else int(edge) for edge in edges)
    if right <= left or bottom <= top:
        return None
    mask = torch.zeros(height, width, dtype=torch.bool, device=values.device)
    mask[top:bottom, left:right] = resize(values, bottom - top, right - left) > 0
    return mask


def resize(values: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resize to float[height, width], bilinearly, with antialiasing where it shrinks."""
    options = {"size": (height, width), "mode": "bilinear", "align_corners": False, "antialias": True}
    return interpolate(values.float()[None, None], **options)[0, 0]
