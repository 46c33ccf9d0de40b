"""A planned model without memory for its weights, and the bytes that it and a step of it would take."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel, SiglipForImageClassification

from openpali.modeling.auto import model_class
from openpali.modeling.modeling_siglip import SiglipForContrastiveLearning
from openpali.modeling.token_loss import CHUNK_LOGITS
from openpali.recipes.costs.activation_memory import Kept, kept_bytes, parts_of, shallow, stack_sizes
from openpali.recipes.costs.forward_passes import STEPS
from openpali.recipes.costs.layer_flops import Stack
from openpali.recipes.costs.plan import Planned
from openpali.recipes.dense import DenseSiglip
from openpali.recipes.start.adapters import TRAINED, add_adapters
from openpali.recipes.training.optimizer import Component, components, freeze, matrix_names

# a number, an 8-bit scale for 64 of them, and a float32 scale for 256 of those
FOUR_BITS = 0.5 + 1 / 64 + 4 / (64 * 256)
KINDS: dict[str, Any] = {
    "contrastive": SiglipForContrastiveLearning,
    "classification": SiglipForImageClassification,
    "dense": DenseSiglip,
    "denoise": AutoModelForSeq2SeqLM,
}


def build(planned: Planned, config: Any) -> PreTrainedModel:
    """The model without memory for its weights, in its types, with adapters if it trains some."""
    # a model writes into its configuration how it attends
    config = copy.deepcopy(config)
    kind = KINDS.get(planned.kind) or model_class(config)
    with torch.device("meta"):
        make = kind.from_config if planned.kind == "denoise" else kind._from_config
        model = make(config)
        if planned.attention:
            # what SDPA keeps beside the mask is what FlexAttention keeps; Gemma 2 has no SDPA, for its soft-caps
            for part in parts_of(model.config.text_config):
                part._attn_implementation = {"flex_attention": "sdpa"}.get(planned.attention, planned.attention)
        model.to(weight_type(planned))
        if planned.adapters.peft != "none":
            add_adapters(model, planned.adapters, planned.run.freeze)
    return model


def weight_type(planned: Planned) -> torch.dtype:
    """Of weights that are not 4-bit, on a GPU."""
    default = torch.float32 if planned.adapters.peft == "none" else torch.bfloat16
    return TRAINED.get(planned.dtype, default)


def component_table(planned: Planned, model: PreTrainedModel) -> list[Component]:
    """What trains; gradients are switched on and off accordingly."""
    table = components(model, planned.run)
    freeze(table)
    return table


def activations(planned: Planned, model: PreTrainedModel) -> tuple[Kept, Kept]:
    """What a step of a model keeps, without activation checkpointing and with it."""
    sizes = stack_sizes(model)
    model = build(planned, shallow(planned.config))
    component_table(planned, model)

    def step(model: Any, examples: int) -> Any:
        return STEPS[planned.kind](model, examples, planned.lengths)

    autocast = torch.bfloat16 if planned.run.bf16 else torch.float16 if planned.run.fp16 else None
    return kept_bytes(model, sizes, step, autocast, planned.attention != "flex_attention")


def autocast_copies(planned: Planned, model: PreTrainedModel) -> float:
    """Bytes of weights that train, as autocast keeps them until the forward pass is over, with checkpointing too."""
    if not (planned.run.bf16 or planned.run.fp16):
        return 0.0
    names = matrix_names(model)
    trains = [p for name, p in model.named_parameters() if p.requires_grad and name in names]
    return sum(2.0 * p.numel() for p in trains if p.itemsize > 2)


def weight_bytes(planned: Planned, model: PreTrainedModel) -> float:
    """Of the model and its adapters."""
    saved = sum((p.itemsize - FOUR_BITS) * p.numel() for p in four_bit_weights(planned, model))
    return sum(p.nbytes for p in model.parameters()) - saved


def four_bit_weights(planned: Planned, model: PreTrainedModel) -> list[torch.Tensor]:
    """Weights of a model on the meta device that would be in 4 bits (`modeling/four_bit.py`)."""
    if planned.adapters.peft != "qlora":
        return []
    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear) and ".lora_" not in name]
    return [m.weight for name, m in layers if "lm_head" not in name and "projector" not in name]


def optimizer_bytes(name: str) -> float:
    """For each float32 parameter that trains: two moments, or Adafactor's momentum in bfloat16."""
    return 2.0 if "8bit" in name or "adafactor" in name else 0.0 if name == "sgd" else 8.0


def besides(planned: Planned, model: PreTrainedModel) -> float:
    """On one GPU without sharding: a table's second gradient, the loss's chunks, the largest layer out of 4 bits."""
    head: Any = model.get_output_embeddings()
    found = max((2.0 * p.numel() for p in four_bit_weights(planned, model)), default=0.0)
    if planned.kind == "pali3" and planned.config.text_config.model_type == "t5" and planned.adapters.peft == "none":
        vision, text = planned.config.vision_config, planned.config.text_config
        tokens = (vision.image_size // vision.patch_size) ** 2 + planned.lengths.prompt
        # the gradient of relative positions; the positions themselves are among what is kept
        found += 4.0 * text.num_heads * tokens**2
    if head is None:
        return found
    if head.weight is model.get_input_embeddings().weight and head.weight.requires_grad:
        found += head.weight.nbytes
    # logits and their gradient, each in float32 and in the type of the products
    tokens = planned.lengths.target * planned.run.per_device_train_batch_size
    return found + 12.0 * max(CHUNK_LOGITS, 1024 * tokens)


def largest_unit(model: PreTrainedModel, stacks: Sequence[Stack]) -> int:
    """Parameters of the largest thing that is gathered at once: a layer, or a table."""
    tables = [module.weight.numel() for module in model.modules() if isinstance(module, nn.Embedding)]
    return max([*tables, *(stack.layer_weights() for stack in stacks)])
