"""Tokenizers: a checkpoint's own, and that of both families, which has location and segmentation tokens, `<image>`."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer
from transformers.models.auto.tokenization_auto import get_tokenizer_config, tokenizer_class_from_name

from .checkpoints import reading

IMAGE_TOKEN = "<image>"
LOCATION_TOKENS = [f"<loc{i:04d}>" for i in range(1024)]
SEGMENTATION_TOKENS = [f"<seg{i:03d}>" for i in range(128)]


# what SigLIP 2's releases declare, and Transformers replaces rightly
_OF_SIGLIP2 = ("Siglip2Tokenizer", "GemmaTokenizer", "GemmaTokenizerFast", None)


def load_tokenizer(name: str | Path) -> Any:
    """The tokenizer of a checkpoint, as it was saved.

    For every `Siglip2Model` Transformers' `AutoTokenizer` makes the tokenizer of SigLIP 2's releases from the saved
    vocabulary, whatever the saved one is. It lower-cases, and reads the spaces of another tokenizer as unknown tokens.
    """
    tokenizer = AutoTokenizer.from_pretrained(name)
    if type(tokenizer).__name__ != "Siglip2Tokenizer":
        return tokenizer
    saved = get_tokenizer_config(name).get("tokenizer_class")
    kind: Any = None if saved in _OF_SIGLIP2 else tokenizer_class_from_name(saved)
    return tokenizer if kind is None else kind.from_pretrained(name)


def extended_tokenizer(text: str) -> Any:
    """The tokenizer of a language model with location tokens, segmentation tokens and `<image>` added."""
    with reading(text):
        tokenizer = without_limits(load_tokenizer(text))
    tokenizer.add_tokens(LOCATION_TOKENS + SEGMENTATION_TOKENS)
    tokenizer.add_tokens([IMAGE_TOKEN], special_tokens=True)
    return tokenizer


def without_limits(tokenizer: Any) -> Any:
    """Remove truncation and padding that an earlier use left in the tokenizer's file.

    A saved tokenizer keeps the options of its last call, and Transformers' processors take them as their defaults:
    prompts would be cut, for instance, to the length of SigLIP's captions.
    """
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    for option in ("max_length", "truncation_strategy", "stride"):
        tokenizer.init_kwargs.pop(option, None)
    tokenizer.model_max_length = int(1e30)
    return tokenizer
