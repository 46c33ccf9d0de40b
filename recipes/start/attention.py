"""The attention back-end of the text model, checked against device and model."""

import torch
from transformers import PreTrainedModel

from openpali.data.files.config import ConfigError


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
