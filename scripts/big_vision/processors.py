"""Image processors and tokenizers that fit a converted checkpoint."""

import logging
from pathlib import Path
from typing import Any

from PIL.Image import Resampling
from transformers import AddedToken, AutoTokenizer, SiglipProcessor
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from openpali.data.images.naflex import NaFlexImageProcessor
from openpali.modeling.processing_chat import take_chat_template
from openpali.modeling.processing_paligemma import PaliGemmaProcessor
from openpali.modeling.processing_tokenizer import IMAGE_TOKEN, LOCATION_TOKENS, SEGMENTATION_TOKENS

logger = logging.getLogger(__name__)

# not Siglip2Processor, which puts patches of 16 and 256 of them before the image processor's own settings
PROCESSORS = {"paligemma": PaliGemmaProcessor, "siglip": SiglipProcessor, "siglip2": SiglipProcessor}
PROCESSORS |= {"captioner": SiglipProcessor}


def make_image_processor(config: Any) -> Any:
    """The image processor as in big_vision: resized to a square, bilinear with antialiasing, to [-1, 1].

    NaFlex towers keep the aspect ratio.
    """
    vision = config.vision_config if config.model_type in PROCESSORS else config
    if vision.model_type == "siglip2_vision_model":
        return NaFlexImageProcessor(patch_size=vision.patch_size, max_num_patches=vision.num_patches)
    options: dict[str, Any] = {"size": {"height": vision.image_size, "width": vision.image_size}}
    if config.model_type == "paligemma":
        options["image_seq_length"] = (vision.image_size // vision.patch_size) ** 2
    # the default is bicubic
    return SiglipImageProcessorPil(resample=Resampling.BILINEAR, **options)


def make_processor(config: Any, folder: Path, rows: int) -> Any:
    """The processor of a checkpoint with texts.

    Args:
        config: of the converted model.
        folder: a tokenizer as Transformers saves it: Gemma's for PaliGemma, SigLIP's own for SigLIP.
        rows: trained rows of the checkpoint's embedding table.

    Raises:
        ValueError: if the tokenizer's ids are not those that the checkpoint was trained with, or the checkpoint is an
            image tower alone.
        OSError: if there is no tokenizer in the folder.
    """
    if config.model_type not in PROCESSORS:
        raise ValueError("--tokenizer: an image tower takes no texts; leave it out")
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    if config.model_type == "paligemma":
        _fit_gemma(tokenizer, config, folder, rows)
        return PaliGemmaProcessor(make_image_processor(config), tokenizer, take_chat_template(tokenizer))
    _fit_siglip(tokenizer, config, folder)
    return PROCESSORS[config.model_type](make_image_processor(config), tokenizer)


def _fit_gemma(tokenizer: Any, config: Any, folder: Path, rows: int) -> None:
    """Give a bare Gemma tokenizer the location and segmentation tokens and `<image>`, and compare all ids."""
    text = config.text_config
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if getattr(tokenizer, name) != getattr(text, name):
            raise ValueError(
                f"--tokenizer {folder}: its {name} is {getattr(tokenizer, name)}, the checkpoint's"
                f" {getattr(text, name)}: give Gemma's tokenizer"
            )
    placed = LOCATION_TOKENS + SEGMENTATION_TOKENS
    first = rows - len(placed)
    has_places = placed[0] in tokenizer.get_vocab()
    # a table too small for these tokens was trained without them
    if not has_places and len(tokenizer) <= first:
        tokenizer.add_tokens(placed)
        has_places = True
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken(IMAGE_TOKEN, normalized=False)]})
    wanted = {token: first + offset for offset, token in enumerate(placed)} if has_places else {}
    for token, row in (wanted | {IMAGE_TOKEN: config.image_token_index}).items():
        found = tokenizer.convert_tokens_to_ids(token)
        if found != row:
            raise ValueError(
                f"--tokenizer {folder}: {token} gets the id {found}, the checkpoint has it at {row}. Give the bare"
                f" Gemma tokenizer of {first if has_places else rows} tokens, or a PaliGemma folder"
            )


def _fit_siglip(tokenizer: Any, config: Any, folder: Path) -> None:
    text = config.decoder_config if config.model_type == "captioner" else config.text_config
    if len(tokenizer) > text.vocab_size:
        raise ValueError(
            f"--tokenizer {folder}: it has {len(tokenizer)} tokens, the checkpoint {text.vocab_size}: give the"
            " tokenizer that it was trained with (SigLIP's have 32000, 250000 or 256000 tokens)"
        )
    tokenizer.model_max_length = text.max_position_embeddings
    tokenizer.padding_side = "right"
    if tokenizer("A Dog")["input_ids"] != tokenizer("a dog")["input_ids"]:
        logger.warning(
            "The tokenizer keeps capitals, but SigLIP and CapPa were trained on lower-cased texts: lower yours"
        )
