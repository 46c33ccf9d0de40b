"""The tokenizer of both families: a language model's, with location tokens, segmentation tokens and `<image>`."""

from typing import Any

from transformers import AutoTokenizer

from .checkpoints import reading

IMAGE_TOKEN = "<image>"
LOCATION_TOKENS = [f"<loc{i:04d}>" for i in range(1024)]
SEGMENTATION_TOKENS = [f"<seg{i:03d}>" for i in range(128)]


def extended_tokenizer(text: str) -> Any:
    """The tokenizer of a language model with location tokens, segmentation tokens and `<image>` added."""
    with reading(text):
        tokenizer = without_limits(AutoTokenizer.from_pretrained(text))
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
