"""Tiny random PaliGemmas of both text models, a processor that fits them, and batches."""

import copy
from typing import Any

import torch
from PIL import Image
from transformers import PaliGemmaConfig
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from openpali.modeling.modeling_paligemma import PaliGemmaForConditionalGeneration
from openpali.modeling.processing_paligemma import PaliGemmaProcessor

SIDE, PATCH, IMAGE_TOKENS = 16, 8, 4

VISION: dict[str, Any] = {"model_type": "siglip_vision_model", "hidden_size": 24, "intermediate_size": 32}
VISION |= {"num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIDE, "patch_size": PATCH}
VISION |= {"vision_use_head": False}

GEMMA: dict[str, Any] = {"model_type": "gemma", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
GEMMA |= {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 256}
GEMMA |= {"pad_token_id": 0, "eos_token_id": 1}
# soft-caps low enough to matter, a window below the length of the sequences, grouped queries
GEMMA2 = GEMMA | {"model_type": "gemma2", "num_key_value_heads": 2, "query_pre_attn_scalar": 8}
GEMMA2 |= {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0, "sliding_window": 6}
TEXT = {"gemma": GEMMA, "gemma2": GEMMA2}
KINDS = list(TEXT)


def with_bos(tokenizer: Any) -> Any:
    """A copy with a BOS token, as Gemma's tokenizer has."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_special_tokens({"bos_token": "<bos>"})
    return tokenizer


def tiny_paligemma_processor(tokenizer: Any, side: int = SIDE, **options: Any) -> PaliGemmaProcessor:
    image_processor = SiglipImageProcessorPil(size={"height": side, "width": side})
    image_processor.image_seq_length = IMAGE_TOKENS
    return PaliGemmaProcessor(image_processor, with_bos(tokenizer), **options)


def tiny_paligemma(
    kind: str, processor: PaliGemmaProcessor, seed: int = 1, attention: str | None = None, **fields
) -> Any:
    """Weights are large enough for every part to matter, the projector too; four patches an image of any side."""
    torch.manual_seed(seed)
    tokenizer: Any = processor.tokenizer
    images: Any = processor.image_processor
    side = images.size["height"]
    text = TEXT[kind] | {"vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id}
    config = PaliGemmaConfig(
        vision_config=VISION | {"image_size": side, "patch_size": side // 2},
        text_config=text,
        image_token_id=processor.image_token_id,
        projection_dim=text["hidden_size"],
        hidden_size=text["hidden_size"],
        attn_implementation=attention,
        **fields,
    )
    model: Any = PaliGemmaForConditionalGeneration(config).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.25)
        elif "norm" not in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


PREFIXES = ["what is this", "caption en", "detect dog", "two green cats what is this caption en"]
SUFFIXES = ["a red dog", "two green cats and a dog", "dog", "en"]


IMAGES = [Image.new("RGB", (20, 24 + i), colour) for i, colour in enumerate(["red", "lime", "blue", "white"])]


def tiny_batch(processor: PaliGemmaProcessor, **options: Any) -> Any:
    """Four examples of different lengths, the second is the longest."""
    return processor(images=IMAGES, text=PREFIXES, suffix=SUFFIXES, return_tensors="pt", padding=True, **options)
