"""Images of any aspect ratio (SigLIP 2's NaFlex): image encoders whose number of tokens differs from image to image.

Such an encoder takes `pixel_values`: float[N, P, 3 * patch_size**2], patches padded to the longest sequence, and
`spatial_shapes`: int[N, 2], rows and columns of each image's patches, which tell padding from patches. Padding has no
placeholder in the text, is attended to by no patch, and never reaches the text model.

Shapes: `B` examples, `N` images, `P` patches of the longest one, padding included, `S` tokens of their sequences,
`T` patches of all images together, `D` width, `h w` rows and columns of patches.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any

import torch
from transformers import Siglip2VisionModel, SiglipVisionModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.siglip2.image_processing_pil_siglip2 import get_image_size_for_max_num_patches
from transformers.models.siglip2.modeling_siglip2 import Siglip2VisionEmbeddings

NAFLEX = "siglip2_vision_model"
# inputs of a model that have a row for each image
IMAGE_INPUTS = ("pixel_values", "image_features", "pixel_attention_mask", "spatial_shapes")


def is_naflex(vision_config: Any) -> bool:
    """Whether an image encoder takes images of any aspect ratio."""
    return vision_config.model_type == NAFLEX


def tower_class(vision_config: Any) -> Any:
    """Class of the image encoder of this configuration."""
    return Siglip2VisionModel if is_naflex(vision_config) else SiglipVisionModel


def most_image_tokens(vision_config: Any) -> int:
    """Tokens of one image. Of an encoder for any aspect ratio `image_tokens` of the configuration, which a plan of a
    training sets; else those of a square image of its own training.
    """
    if is_naflex(vision_config):
        return getattr(vision_config, "image_tokens", vision_config.num_patches)
    return (vision_config.image_size // vision_config.patch_size) ** 2


def patches_of_sizes(image_processor: Any, sizes: Sequence[tuple[int, int]]) -> list[int]:
    """Number of patches that `Siglip2ImageProcessor` makes of images of these heights and widths."""
    patch, most = image_processor.patch_size, image_processor.max_num_patches
    sides = [get_image_size_for_max_num_patches(*size, patch, most) for size in sizes]
    return [height * width // patch**2 for height, width in sides]


def patch_mask(spatial_shapes: torch.Tensor, patches: int) -> torch.Tensor:
    """bool[N, P], True on patches and False on padding, of int[N, 2] rows and columns."""
    return torch.arange(patches, device=spatial_shapes.device) < spatial_shapes.prod(-1, keepdim=True)


def without_padding(features: torch.Tensor, spatial_shapes: torch.Tensor | None) -> torch.Tensor:
    """float[T, D], the features of all patches in the order of their images, of float[N, P, D] with padding.

    Raises:
        ValueError: there are no `spatial_shapes`.
    """
    if spatial_shapes is None:
        raise ValueError("features of images of any aspect ratio need the spatial_shapes of their images")
    return features[patch_mask(spatial_shapes.flatten(0, -2), features.shape[1]).to(features.device)]


def images_of_rows(placeholders: torch.Tensor, inputs: Mapping[str, Any]) -> list[int]:
    """Number of images of each example.

    Args:
        placeholders: int[B], of each example.
        inputs: of a model: some of `IMAGE_INPUTS`, with a row for each image. Without `spatial_shapes` all images have
            the same number of tokens.
    """
    total = next((len(inputs[name]) for name in IMAGE_INPUTS if inputs.get(name) is not None), 0)
    if inputs.get("spatial_shapes") is None:
        return (placeholders * total // placeholders.sum().clamp(min=1)).tolist()
    # images whose tokens end in each example or before it
    ends = inputs["spatial_shapes"].prod(-1).cumsum(0)
    so_far = torch.searchsorted(ends, placeholders.to(ends).cumsum(0), right=True)
    return torch.diff(so_far, prepend=so_far.new_zeros(1)).tolist()


def repeated_images(placeholders: torch.Tensor, inputs: Mapping[str, Any], times: int) -> dict[str, torch.Tensor]:
    """The images of each example several times, example by example, as beams need them: A B, C -> A B A B, C C.

    Args:
        placeholders: int[B], of each example.
        inputs: see `images_of_rows`.
        times: copies of each example.

    Returns:
        Those of `IMAGE_INPUTS` that there are.
    """
    ends = list(accumulate(images_of_rows(placeholders, inputs)))
    order = [i for first, end in zip([0, *ends], ends) for i in [*range(first, end)] * times]
    return {name: inputs[name][order] for name in IMAGE_INPUTS if inputs.get(name) is not None}


@lru_cache(maxsize=1024)
@torch.inference_mode(False)
def antialiased_axis(old: int, new: int) -> torch.Tensor:
    """float32[new, old], which resizes an axis: bilinear, half-pixel centres, antialiased when shrinking."""
    scale = old / new
    centres = (torch.arange(new, dtype=torch.float64)[:, None] + 0.5) * scale - 0.5  # [new, 1]
    weights = (1 - (torch.arange(old) - centres).abs() / max(scale, 1)).clamp(min=0)  # [new, old]
    return (weights / weights.sum(1, keepdim=True)).float()


def resize_square(table: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Resize position embeddings, float[rows, columns, D] to float[h, w, D], by `antialiased_axis`.

    Not by PyTorch's `interpolate`, which is wrong on a CPU where the grid has one column.
    """
    rows, columns = (antialiased_axis(old, new).to(table.device) for old, new in zip(table.shape[:2], grid))
    return torch.einsum("hr,rcd,wc->hwd", rows, table.float(), columns).to(table.dtype)


def resize_positions(positions: torch.Tensor, spatial_shapes: torch.Tensor, max_length: int) -> torch.Tensor:
    """Position embeddings of each image: bilinear, antialiased, with half-pixel centres.

    Args:
        positions: float[rows, columns, D] of the table.
        spatial_shapes: int[N, 2], rows and columns of each image.
        max_length: S, length of the sequences.

    Returns:
        float[N, S, D]; padding has the embedding of the first patch, as in Transformers.
    """
    grids, found = [tuple(shape) for shape in spatial_shapes.tolist()], {}
    for grid in dict.fromkeys(grids):
        own = resize_square(positions, grid).flatten(0, 1)  # [grid rows * columns, D]
        found[grid] = torch.cat([own, own[:1].expand(max_length - len(own), -1)])
    return torch.stack([found[grid] for grid in grids])


class NaFlexVisionEmbeddings(Siglip2VisionEmbeddings):
    """The stock embeddings, with positions that are resized once for all images of a grid.

    The stock class resizes them for every image and writes them into one tensor, whose gradient is copied as often.
    This one took a fortieth of its time for 64 images of B/16 at 256 tokens, forward and backward on a CPU. It is also
    right for images one patch wide, for which PyTorch's antialiased resizing is not.
    """

    resize_positional_embeddings: Any = staticmethod(resize_positions)


def use_own_positions(tower: Any) -> None:
    """Let an image encoder resize its positions by `NaFlexVisionEmbeddings`; another kind of encoder is left alone."""
    embeddings = getattr(tower, "embeddings", None)
    if type(embeddings) is Siglip2VisionEmbeddings:
        embeddings.__class__ = NaFlexVisionEmbeddings


def encode_patches(
    tower: Any, pixel_values: torch.Tensor, spatial_shapes: torch.Tensor | None, **options: Any
) -> BaseModelOutputWithPooling:
    """Run an image encoder for any aspect ratio.

    Args:
        tower: `Siglip2VisionModel`.
        pixel_values: float[N, P, 3 * patch_size**2], or with a dimension of examples in front.
        spatial_shapes: int[N, 2], likewise.
        **options: of the encoder.

    Returns:
        Its output, float[N, P, D] with padding.

    Raises:
        ValueError: there are no `spatial_shapes`, or the images are not in patches.
    """
    if spatial_shapes is None or pixel_values.shape[-1] != tower.embeddings.patch_embedding.in_features:
        raise ValueError(
            "the image encoder takes images of any aspect ratio: pixel_values in patches with their spatial_shapes, as"
            " the model's own processor returns them (a processor of square images does not)"
        )
    use_own_positions(tower)
    patches, shapes = pixel_values.flatten(0, -3), spatial_shapes.flatten(0, -2)
    mask = patch_mask(shapes, patches.shape[1])
    return tower(pixel_values=patches, pixel_attention_mask=mask, spatial_shapes=shapes, **options)
