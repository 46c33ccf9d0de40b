"""The attention back-end of the text model and the mask of its prompt, checked against device and model."""

from typing import Any

import torch
from transformers import PreTrainedModel

from openpali.data.files.config import ConfigError
from openpali.modeling.processing_paligemma import PaliGemmaProcessor


def check_attention(attention: str | None, device: torch.device) -> None:
    """Raise ConfigError for a back-end that cannot train on the device."""
    if attention == "flex_attention" and device.type == "cpu":
        raise ConfigError("attention: flex_attention cannot train on CPUs; leave it out, or take sdpa or eager")


def set_text_attention(model: PreTrainedModel, attention: str | None) -> None:
    """Set the back-end of the text model; None keeps its default.

    Raises:
        ConfigError: the model does not support it.
    """
    if attention is None:
        return
    try:
        model.set_attn_implementation({"text_config": attention})
    except ValueError as error:
        raise ConfigError(f"attention: {str(error).split('. ')[0]}") from error


def check_comparisons(model: str, processor: Any, **options: Any) -> None:
    """Refuse options that compare masks and losses of PaliGemma's prompt, for a model that has no such prompt.

    Args:
        model: its name, for the message.
        processor: the model's.
        **options: values by name; those that are not set do no harm.

    Raises:
        ConfigError: one is set, and the model is a PaLI-3.
    """
    if any(options.values()) and not isinstance(processor, PaliGemmaProcessor):
        *first, last = options
        raise ConfigError(
            f"{', '.join(first)} and {last} are PaliGemma's; {model} reads its prompt in an encoder: leave them out"
        )
