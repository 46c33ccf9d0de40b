"""Image resolution: the image size of a model, its position embeddings and its number of image tokens.

`set_resolution` changes a PaLI model and its processor together; `set_image_size` a SigLIP encoder alone;
`set_image_tokens` the most tokens of an image of any aspect ratio.
`stretch_text_positions` lets more image tokens span the text positions of fewer.
"""

from typing import Any

import torch
from torch import nn
from torch.nn.functional import interpolate
from transformers import PreTrainedModel
from transformers.models.siglip.modeling_siglip import SiglipVisionEmbeddings

from .configuration_paligemma import PALIGEMMA_TYPES
from .image_patches import is_naflex


def set_resolution(model: PreTrainedModel, processor: Any, image_size: int) -> None:
    """Change the image size of a PaLI model and of its processor, in place.

    Position embeddings are resized, as between the stages of both papers. The number of image tokens, `P =
    (image_size // patch_size) ** 2`, is updated in the configurations and in the processor.

    Args:
        model: PaLI-3 or PaliGemma.
        processor: of the model.
        image_size: side of the images in pixels; a remainder smaller than a patch is cut off.

    Raises:
        ValueError: the model has no SigLIP encoder, or one for any aspect ratio, or an image is smaller than a patch.
    """
    config: Any = model.config
    if is_naflex(config.vision_config):
        raise ValueError("images of any aspect ratio have no side in pixels: give image_tokens, the most of an image")
    set_image_size(model, image_size)
    config.vision_config.image_size = image_size
    tokens = (image_size // config.vision_config.patch_size) ** 2
    if config.model_type == "paligemma":
        config.text_config.num_image_tokens = tokens
        processor.image_processor.image_seq_length = tokens
    processor.image_seq_length = tokens
    processor.image_processor.size = {"height": image_size, "width": image_size}


def set_image_tokens(processor: Any, tokens: int) -> None:
    """Change the most tokens that an image of any aspect ratio may have, in place; the processor saves it.

    The model stays as it is: position embeddings are resized for each image.

    Args:
        processor: of PaLI-3 or PaliGemma.
        tokens: an image is resized, up or down, to at most so many patches; usually 256 to 1024.

    Raises:
        ValueError: images are square, or `tokens` is below 1.
    """
    if not getattr(processor, "any_aspect_ratio", False):
        size: Any = getattr(getattr(processor, "image_processor", None), "size", None) or {}
        pixels = f" of {size['width']}x{size['height']} pixels" if size.get("width") and size.get("height") else ""
        raise ValueError(
            f"the model makes every image a square{pixels}, and only one with a NaFlex image encoder has a number of"
            " tokens to choose: leave image_tokens out, or train at another size, openpali transfer --resolution"
        )
    if tokens < 1:
        raise ValueError(f"{tokens}: it is at least 1, and usually 256 to 1024")
    processor.image_processor.max_num_patches = processor.image_processor.image_seq_length = tokens
    processor.image_seq_length = tokens


@torch.no_grad()
def set_image_size(model: PreTrainedModel, image_size: int) -> None:
    """Resize the position embeddings of a model's SigLIP encoder and update that encoder's configuration.

    The processor and the number of image tokens stay as they are; `set_resolution` updates them too.

    Args:
        model: holds a SigLIP image encoder at any depth.
        image_size: side of the images in pixels; a remainder smaller than a patch is cut off.

    Raises:
        ValueError: there is no such encoder, or the image is smaller than a patch.
    """
    encoders: list[Any] = [module for module in model.modules() if isinstance(module, SiglipVisionEmbeddings)]
    if not encoders:
        raise ValueError(f"{type(model).__name__} has no SigLIP image encoder")
    for module in encoders:
        config = module.config
        side = image_size // config.patch_size
        if side < 1:
            raise ValueError(f"image_size={image_size} is smaller than a patch of {config.patch_size} pixels")
        weight = module.position_embedding.weight
        table = resize_positions(weight, side)
        module.position_embedding = nn.Embedding(len(table), table.shape[1], _weight=table.clone())
        module.position_embedding.weight.requires_grad_(weight.requires_grad)
        module.position_ids = torch.arange(len(table), device=weight.device)[None]
        module.num_patches = module.num_positions = len(table)
        module.image_size = config.image_size = image_size


def stretch_text_positions(model: PreTrainedModel, factor: float) -> None:
    """Divide the positions of PaliGemma's text model by a factor, in place: linear interpolation of RoPE.

    With the ratio of image tokens after and before `set_resolution`, the image spans the positions that it spanned
    before. PaliGemma's authors found no benefit in stage 2. The configuration holds it, so stock Transformers loads it
    too.

    Args:
        model: PaliGemma.
        factor: 1 changes nothing; factors multiply.

    Raises:
        ValueError: the model is another.
    """
    if model.config.model_type not in PALIGEMMA_TYPES:
        raise ValueError(f"{type(model).__name__} is no PaliGemma, whose text positions can be stretched")
    text_model: Any = model.get_decoder()
    rotary, config = text_model.rotary_emb, text_model.config
    known = config.rope_parameters
    config.rope_parameters = known | {"rope_type": "linear", "factor": known.get("factor", 1.0) * factor}
    device = rotary.inv_freq.device
    text_model.rotary_emb = type(rotary)(config).to(device)


def resize_positions(table: torch.Tensor, side: int) -> torch.Tensor:
    """Resize the position embeddings of a square image, as big_vision does.

    Args:
        table: float[old_side * old_side, D].
        side: patches along each side of the new image.

    Returns:
        float[side * side, D], bilinear with align_corners=True; `table` itself where its size is right already.
    """
    old = round(len(table) ** 0.5)
    if old == side:
        return table
    grid = table.reshape(1, old, old, -1).permute(0, 3, 1, 2).float()  # [1, D, old, old]
    resized = interpolate(grid, size=(side, side), mode="bilinear", align_corners=True)  # [1, D, side, side]
    return resized.permute(0, 2, 3, 1).flatten(0, 2).to(table.dtype)  # [side * side, D]
