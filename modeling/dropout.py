"""Dropout in the text models of both families, in training only.

T5 and its relatives have their own dropout. Transformers' Gemma has none: hooks add it where big_vision has it, on the
output of attention (after Gemma 2's norm) and on the output of the MLP (before Gemma 2's norm), and not on embeddings.
Hooks leave the parameters' names as they are, so that stock Transformers loads the saved checkpoints.
"""

from typing import Any

from torch import nn
from transformers import PreTrainedModel

FIELD = "text_dropout"


class ResidualDropout:
    """Forward hook: dropout on a module's output while that module is in training mode.

    Args:
        probability: of a value to be dropped; 0 changes nothing and draws no random numbers.
    """

    def __init__(self, probability: float):
        self.probability = probability

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        """The output with dropout; of attention's outputs, the first."""
        if not (self.probability and module.training):
            return None
        if isinstance(output, tuple):
            return nn.functional.dropout(output[0], self.probability), *output[1:]
        return nn.functional.dropout(output, self.probability)


def add_residual_dropout(language_model: Any, probability: float) -> ResidualDropout:
    """Register one hook on every block of Gemma or Gemma 2.

    Args:
        language_model: has its blocks in `layers`.
        probability: see [`ResidualDropout`].

    Returns:
        The hook, whose probability may be changed at any time.
    """
    hook = ResidualDropout(probability)
    for layer in language_model.layers:
        # Gemma 1's norm of this name stands before its MLP
        has_norm = language_model.config.model_type == "gemma2"
        attention = layer.post_attention_layernorm if has_norm else layer.self_attn
        for part in (attention, layer.mlp):
            part.register_forward_hook(hook)
    return hook


def set_text_dropout(model: PreTrainedModel, probability: float) -> None:
    """Set the dropout of the text model, in its modules and in the configuration, which is saved with the model.

    Args:
        model: PaLI-3 or PaliGemma of this package, with adapters or without; dropout of adapters stays.
        probability: of a value to be dropped; 0 for none.

    Raises:
        ValueError: it is not a probability.
    """
    if not 0 <= probability < 1:
        raise ValueError(f"text_dropout={probability}: give a probability of at least 0 and below 1")
    parts: Any = model
    if not model.config.is_encoder_decoder:
        parts.text_dropout.probability = probability
        setattr(model.config, FIELD, probability)
        return
    for stack in (parts.model.encoder.text_encoder, parts.model.decoder):
        set_module_dropout(stack, probability)
        stack.config.dropout_rate = probability
    text_config = parts.config.text_config
    text_config.dropout_rate = probability
    if text_config.model_type == "t5gemma":
        text_config.encoder.dropout_rate = text_config.decoder.dropout_rate = probability


def set_module_dropout(stack: nn.Module, probability: float) -> None:
    """Set the dropout of T5's modules, and of its attention, where it is an attribute."""
    for name, module in stack.named_modules():
        if isinstance(module, nn.Dropout) and "lora_" not in name:
            module.p = probability
        elif isinstance(vars(module).get("dropout"), int | float):
            vars(module)["dropout"] = probability
