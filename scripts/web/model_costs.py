"""FLOPs of the models of steps, which PyTorch counts in a forward pass without memory, and their time on a GPU."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)

from openpali.modeling.checkpoints import load_config
from openpali.recipes.costs.stage_costs import UTILISATION
from openpali.scripts.web.labelling.seq2seq import AT_ONCE

CAPTION_TOKENS = 24
CANDIDATES = 6
"""Answers that `questions` asks for, of a caption."""
QUESTION_TOKENS, ANSWER_TOKENS, TRANSLATION_TOKENS = 12, 4, 32
LAYER_SECONDS = 1e-3
"""Of a decoder layer for one token of a batch, assumed: in Transformers launches take longer than the computation."""


@dataclass(frozen=True)
class Gpu:
    """Dense bfloat16 peak in FLOP/s, and bytes of memory read in a second, as its maker says."""

    flops: float
    bandwidth: float


GPUS = {
    "A100": Gpu(312e12, 2.0e12),
    "L4": Gpu(121e12, 0.3e12),
    "L40S": Gpu(362e12, 0.864e12),
    "H100": Gpu(989e12, 3.35e12),
    "H200": Gpu(989e12, 4.8e12),
    "B200": Gpu(2250e12, 8.0e12),
}


@dataclass(frozen=True)
class ModelUse:
    """What a step asks of one model for a pair.

    Attributes:
        model: folder or Hub name.
        kind: `pair` (both towers of a SigLIP), `image` or `text` (classifiers), or `write` (an encoder-decoder).
        times: calls.
        prompt: tokens of a text that is read.
        written: tokens of a text that is written.
    """

    model: str
    kind: str
    times: float = 1.0
    prompt: int = CAPTION_TOKENS
    written: int = 0


@dataclass(frozen=True)
class ModelSize:
    """What a call of a model costs: FLOPs, bytes of bfloat16 weights and layers for each written token."""

    flops: float
    decoder_bytes: float = 0.0
    decoder_layers: int = 0


def model_uses(name: str, step: Any) -> list[ModelUse]:
    """The models of a step; none for a step without any. Lengths are those of usual captions.

    Raises:
        ValueError: it has models of which nothing is known here.
    """
    if name == "similarity":
        return [ModelUse(step.model, "pair")]
    if name == "safety":
        given = ((step.image_model, "image"), (step.text_model, "text"))
        return [ModelUse(model, kind) for model, kind in given if model]
    if name == "questions":
        times = CANDIDATES + len(step.further_answers)
        asked = ModelUse(step.model, "write", times, CAPTION_TOKENS + ANSWER_TOKENS, QUESTION_TOKENS)
        checked = ModelUse(step.answer_model, "write", times, CAPTION_TOKENS + QUESTION_TOKENS, ANSWER_TOKENS)
        return [use for use in (asked, checked) if use.model]
    if name == "translations":
        times = len(step.languages) * step.most
        there = ModelUse(step.model, "write", times, CAPTION_TOKENS, TRANSLATION_TOKENS)
        back = ModelUse(step.back_model or step.model, "write", times, TRANSLATION_TOKENS, CAPTION_TOKENS)
        return [there, back] if step.least_chrf else [there]
    if any(option.name == "model" and step.model for option in fields(step)):
        raise ValueError(f"there is no formula for {name}")
    return []


def gpu_seconds(use: ModelUse, gpu: Gpu) -> float:
    """Seconds of a pair on a GPU: FLOPs at 40 % of the peak, and for each written token of a batch its weights' bytes
    or the launches of its layers, whichever takes longer."""
    size = model_size(use.model, use.kind, use.prompt, use.written)
    token = max(size.decoder_bytes / gpu.bandwidth, size.decoder_layers * LAYER_SECONDS)
    return use.times * (size.flops / (UTILISATION * gpu.flops) + use.written * token / AT_ONCE)


def core_seconds(use: ModelUse, core_flops: float) -> float:
    """Seconds of a pair on one core that computes `core_flops` a second."""
    return use.times * model_size(use.model, use.kind, use.prompt, use.written).flops / core_flops


@functools.cache
def model_size(name: str, kind: str, prompt: int, written: int) -> ModelSize:
    """What a call of a checkpoint costs, by its configuration alone.

    Raises:
        CheckpointError: its configuration cannot be read.
    """
    return config_size(load_config(name), kind, prompt, written)


def config_size(config: Any, kind: str, prompt: int = CAPTION_TOKENS, written: int = 0) -> ModelSize:
    """What a call of a model with a configuration costs."""
    classes: dict[str, Any] = {
        "pair": AutoModel,
        "image": AutoModelForImageClassification,
        "text": AutoModelForSequenceClassification,
        "write": AutoModelForSeq2SeqLM,
    }
    # eager, since masks of other back-ends read values, which a model without memory has not
    with torch.device("meta"):
        model = classes[kind].from_config(config, attn_implementation="eager").eval()
        inputs = _INPUTS[kind](config, prompt, written)
        if kind == "write":
            ids = torch.zeros(1, prompt, dtype=torch.long)
            inputs = {"encoder_outputs": model.get_encoder()(input_ids=ids)} | inputs
    flops = _counted(model, inputs)
    if kind != "write":
        return ModelSize(flops)
    with torch.device("meta"):
        flops += _counted(model.get_encoder(), {"input_ids": torch.zeros(1, prompt, dtype=torch.long)})
    decoder = {id(weight): weight for weight in model.get_decoder().parameters()}
    decoder |= {id(weight): weight for weight in model.get_output_embeddings().parameters()}
    layers = getattr(config, "num_decoder_layers", None) or config.decoder_layers
    return ModelSize(flops, 2.0 * sum(weight.numel() for weight in decoder.values()), int(layers))


def _counted(model: Any, inputs: dict[str, Any]) -> float:
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(**inputs)
    return float(counter.get_total_flops())


def _pixels(config: Any) -> torch.Tensor:
    side = getattr(getattr(config, "vision_config", config), "image_size", None) or 224
    height, width = side if isinstance(side, list | tuple) else (side, side)
    return torch.empty(1, 3, height, width)


def _ids(count: int) -> torch.Tensor:
    return torch.zeros(1, count, dtype=torch.long)


_INPUTS: dict[str, Callable[[Any, int, int], dict[str, Any]]] = {
    # a SigLIP reads texts of its full length
    "pair": lambda config, prompt, written: {
        "pixel_values": _pixels(config),
        "input_ids": _ids(config.text_config.max_position_embeddings),
    },
    "image": lambda config, prompt, written: {"pixel_values": _pixels(config)},
    "text": lambda config, prompt, written: {"input_ids": _ids(prompt)},
    "write": lambda config, prompt, written: {"decoder_input_ids": _ids(written)},
}
