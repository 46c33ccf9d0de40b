"""Floating-point operations of a training step, from the shapes, and the peak of known GPUs.

2 operations for each weight and token in the forward, twice that in the backward (once for weights that are frozen
below trained ones, none below nothing trained), and those of attention. The text model is counted as in the paper's
shapes; what a loss computes again is not counted, so that the share of the peak is that of useful work.
"""

from typing import Any

import torch

# dense bfloat16 operations per second, from the manufacturers' data sheets
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "4090": 165e12, "A10": 125e12}


def peak_of(device: torch.device) -> float:
    """Peak operations per second of the device; NaN if unknown."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else ""
    return next((peak for key, peak in PEAKS.items() if key in name), float("nan"))


def tower(config: Any, tokens: int) -> float:
    """A forward of a SigLIP tower on one sequence of `tokens`."""
    width, layers = config.hidden_size, config.num_hidden_layers
    weights = layers * (4 * width**2 + 2 * width * config.intermediate_size)
    return 2 * tokens * weights + 4 * layers * width * tokens**2


def gemma(config: Any, tokens: int, targets: int) -> float:
    """A forward of Gemma and of its LM head on `targets` positions."""
    width, attention = config.hidden_size, config.num_attention_heads * config.head_dim
    heads = 2 * attention + 2 * config.num_key_value_heads * config.head_dim
    weights = config.num_hidden_layers * (width * heads + 3 * width * config.intermediate_size)
    scores = 4 * config.num_hidden_layers * attention * tokens**2
    return 2 * (tokens * weights + targets * width * config.vocab_size) + scores


def t5(config: Any, tokens: int, targets: int) -> float:
    """A forward of T5 v1.1's encoder on `tokens`, and of its decoder and LM head on `targets`."""
    width, inner = config.d_model, config.num_heads * config.d_kv
    attention, mlp = 4 * width * inner, 3 * width * config.d_ff
    encoder = config.num_layers * (2 * tokens * (attention + mlp) + 4 * inner * tokens**2)
    crossed = 2 * width * inner * (targets + tokens) * 2 + 4 * inner * tokens * targets
    decoder = config.num_decoder_layers * (2 * targets * (attention + mlp) + 4 * inner * targets**2 + crossed)
    return encoder + decoder + 2 * targets * width * config.vocab_size
