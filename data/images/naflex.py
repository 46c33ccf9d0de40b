"""NaFlex: an image of any aspect ratio as a sequence of patches (SigLIP 2, section 2.4.2).

The image keeps its aspect ratio. It is resized, up or down, to as many whole patches as a budget allows, cut into
them, and the sequence is filled up with zeros, which a mask marks. Order and numbers are those of the authors' code
(big_vision at 0127fb6, pp/proj/image_text): everything is float, and nothing is rounded or clipped in between.

Shapes: `H W` pixels of an image, `h w` those of the resized one, `p` the side of a patch, `n` its patches, `N` the
budget, that is the length of every sequence, `B` images.
"""

import math
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate, pad
from transformers import BatchFeature
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

from openpali.data.images.open_image import BadImage
from openpali.data.records import MAX_PIXELS

SMALLEST_RATIO, LARGEST_RATIO, PRECISION = 1e-6, 100.0, 1e-5
_MODES = {Image.Resampling.BILINEAR: "bilinear", Image.Resampling.BICUBIC: "bicubic"}


def target_size(height: int, width: int, patch: int, max_patches: int) -> tuple[int, int]:
    """Height and width in pixels to which an image is resized.

    The largest ratio is searched by bisection for which at most `max_patches` are needed. Both sides are rounded up to
    whole patches, each on its own, so the aspect ratio changes a little, and the budget is often not used up.

    Args:
        height, width: of the image, in pixels.
        patch: side of a patch in pixels.
        max_patches: the budget.

    Raises:
        ValueError: `patch` or `max_patches` is below 1.
        BadImage: the image has no pixels, or is so long that its patches do not fit however small it is made.
    """
    if patch < 1 or max_patches < 1:
        raise ValueError(f"a patch of {patch} pixels and {max_patches} patches: at least 1 of each")
    if height < 1 or width < 1:
        raise BadImage(f"an image of {width}x{height} pixels has no pixels; leave it out.")

    def sides(ratio: float) -> tuple[int, int]:
        return max(1, math.ceil(height * ratio / patch)), max(1, math.ceil(width * ratio / patch))

    lower, upper = SMALLEST_RATIO, LARGEST_RATIO
    while upper - lower >= PRECISION:
        ratio = (lower + upper) / 2
        if math.prod(sides(ratio)) <= max_patches:
            lower = ratio
        else:
            upper = ratio
    if lower <= PRECISION:
        raise BadImage(f"an image of {width}x{height} pixels does not fit into {max_patches} patches; crop it.")
    rows, columns = sides(lower)
    return rows * patch, columns * patch


def resize(image: torch.Tensor, size: tuple[int, int], mode: str = "bilinear") -> torch.Tensor:
    """float[3, h, w] of float[3, H, W]: antialiased when it shrinks, with half-pixel centres, neither rounded nor
    clipped."""
    if tuple(image.shape[1:]) == tuple(size):
        return image
    return interpolate(image[None], size, mode=mode, antialias=True, align_corners=False)[0]


def to_patches(image: torch.Tensor, patch: int) -> torch.Tensor:
    """float[n, 3p²] of float[3, h, w]: patches row by row, and in each the values by row, column and channel.

    Raises:
        ValueError: a side is no multiple of the patch.
    """
    channels, height, width = image.shape
    if height % patch or width % patch:
        raise ValueError(f"an image of {width}x{height} pixels cannot be cut into patches of {patch}")
    grid = image.reshape(channels, height // patch, patch, width // patch, patch)
    return grid.permute(1, 3, 2, 4, 0).reshape(-1, patch * patch * channels)


class NaFlexImageProcessor(Siglip2ImageProcessorPil):
    """The image processor of SigLIP 2's NaFlex towers, as in the authors' code.

    Settings, saved files and outputs are those of Transformers' `Siglip2ImageProcessor`: it loads the
    `preprocessor_config.json` of published checkpoints, and what it saves loads as the stock class where openpali is
    missing. What differs is the resizing: the stock class rounds pixels to whole levels of 0 to 255 (with Pillow after
    each of the two axes) before it scales them, this one stays in float. Measured on random images that moves values
    by up to one level, 0.008 of the range of -1 to 1, and not at all where nothing is resized.

    Images are RGB images of Pillow, as `openpali.data.images.open_image.load_image` opens them, or arrays.
    """

    do_convert_rgb = True

    @classmethod
    def of(cls, stock: Any) -> "NaFlexImageProcessor":
        """One with the settings of a stock image processor of NaFlex, which `AutoProcessor` loads."""
        settings: dict[str, Any] = {key: value for key, value in stock.to_dict().items() if key in vars(stock)}
        return cls(**settings | {"do_convert_rgb": True})  # pyright: ignore[reportArgumentType]

    def preprocess(self, images: Any, *args: Any, **options: Any) -> BatchFeature:
        """Patches of images, their masks and their grids.

        Args:
            images: one image, or B of them.
            args: further positional options of the stock call.
            options: `max_num_patches` is the budget N, and all those of the stock call.

        Returns:
            `pixel_values` float[B, N, 3p²] in [-1, 1], `pixel_attention_mask` int[B, N], 0 on padding, and
            `spatial_shapes` int[B, 2], rows and columns of patches; with `return_tensors`, else as lists.

        Raises:
            BadImage: an image is larger than `MAX_PIXELS`, or does not fit into the budget.
        """
        listed: Any = images if isinstance(images, (list, tuple)) else [images]
        for image in listed:
            _check_pixels(image)
        given: Any = images
        return super().preprocess(given, *args, **options)

    def _preprocess(
        self,
        images: list[np.ndarray],
        do_resize: bool,
        patch_size: int,
        max_num_patches: int,
        resample: Any,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: float | list[float] | None,
        image_std: float | list[float] | None,
        return_tensors: Any,
        **options: Any,
    ) -> BatchFeature:
        scale, shift = _scale_and_shift(
            rescale_factor if do_rescale else 1.0, *((image_mean, image_std) if do_normalize else (0.0, 1.0))
        )
        values, masks, shapes = [], [], []
        for array in images:
            image = torch.from_numpy(np.ascontiguousarray(array)).float()
            if do_resize:
                size = target_size(image.shape[1], image.shape[2], patch_size, max_num_patches)
                image = resize(image, size, _mode(resample))
            # the same as scaling before resizing, for the weights of the filter add up to one
            image = image * scale + shift
            patches = to_patches(image, patch_size)
            missing = max_num_patches - len(patches)
            if missing < 0:
                raise ValueError(
                    f"{len(patches)} patches of an image that is not resized, of {max_num_patches} at most"
                )
            values.append(pad(patches, (0, 0, 0, missing)).numpy())
            masks.append(np.repeat(np.array([1, 0], np.int32), [len(patches), missing]))
            shapes.append((image.shape[1] // patch_size, image.shape[2] // patch_size))
        data = {"pixel_values": values, "pixel_attention_mask": masks, "spatial_shapes": shapes}
        return BatchFeature(data=data, tensor_type=return_tensors)

    def to_dict(self) -> dict[str, Any]:
        """Settings, under the name of the stock class."""
        return super().to_dict() | {"image_processor_type": "Siglip2ImageProcessor"}


def _check_pixels(image: Any) -> None:
    """Before Pillow decodes an image: its header has the size."""
    if isinstance(image, Image.Image) and math.prod(image.size) > MAX_PIXELS:
        raise BadImage(f"an image of {image.width}x{image.height} pixels: {MAX_PIXELS:,} are read at most; shrink it.")


def _mode(resample: Any) -> str:
    known = _MODES.get(resample if resample is not None else Image.Resampling.BILINEAR)
    if known is None:
        raise ValueError(f"resample={resample!r}: NaFlex images are resized by 2 (bilinear) or 3 (bicubic)")
    return known


def _scale_and_shift(factor: float, mean: Any, std: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """float[3 or 1, 1, 1] each: rescaling and normalising as one multiplication and one addition."""
    means, stds = (cast(torch.Tensor, torch.as_tensor(value, dtype=torch.float64)) for value in (mean, std))
    return (factor / stds).float().reshape(-1, 1, 1), (-means / stds).float().reshape(-1, 1, 1)
