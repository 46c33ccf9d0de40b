"""The model of a plan on the meta device, and the bytes of its weights and of a training step."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel, SiglipForImageClassification

from openpali.modeling.auto import model_class
from openpali.modeling.image_patches import most_image_tokens
from openpali.modeling.modeling_siglip import SiglipForContrastiveLearning
from openpali.modeling.token_loss import CHUNK_LOGITS
from openpali.recipes.costs.activation_memory import Kept, all_configs, kept_bytes, shallow, stack_sizes
from openpali.recipes.costs.forward_passes import STEPS
from openpali.recipes.costs.layer_flops import Stack
from openpali.recipes.costs.plan import TrainingPlan
from openpali.recipes.dense import DenseSiglip
from openpali.recipes.start.adapters import TRAINED, add_adapters
from openpali.recipes.training.optimizer import Component, components, freeze, matrix_names

# bytes of a weight: 4 bits, an 8-bit scale for 64 weights, and a float32 scale for 256 scales
FOUR_BITS = 0.5 + 1 / 64 + 4 / (64 * 256)
KINDS: dict[str, Any] = {
    "contrastive": SiglipForContrastiveLearning,
    "classification": SiglipForImageClassification,
    "dense": DenseSiglip,
    "denoise": AutoModelForSeq2SeqLM,
}


def build(plan: TrainingPlan, config: Any) -> PreTrainedModel:
    """The model on the meta device, in its dtypes, with adapters if the plan has some."""
    # a model writes its attention back-end into its configuration
    config = copy.deepcopy(config)
    kind = KINDS.get(plan.kind) or model_class(config)
    with torch.device("meta"):
        make = kind.from_config if plan.kind == "denoise" else kind._from_config
        model = make(config)
        if plan.attention:
            # FlexAttention keeps what SDPA keeps without the mask; Gemma 2 has no SDPA because of its soft-caps
            for part in all_configs(model.config.text_config):
                part._attn_implementation = {"flex_attention": "sdpa"}.get(plan.attention, plan.attention)
        model.to(weight_type(plan))
        if plan.adapters.peft != "none":
            add_adapters(model, plan.adapters, plan.run.freeze)
    return model


def weight_type(plan: TrainingPlan) -> torch.dtype:
    """Dtype of weights that are not 4-bit, on a GPU."""
    default = torch.float32 if plan.adapters.peft == "none" else torch.bfloat16
    return TRAINED.get(plan.dtype, default)


def component_table(plan: TrainingPlan, model: PreTrainedModel) -> list[Component]:
    """The components of a model, with gradients switched on where they train."""
    table = components(model, plan.run)
    freeze(table)
    return table


def activations(plan: TrainingPlan, model: PreTrainedModel) -> tuple[Kept, Kept]:
    """Activations that a step keeps, without activation checkpointing and with it."""
    sizes = stack_sizes(model)
    model = build(plan, shallow(plan.config))
    component_table(plan, model)

    def step(model: Any, examples: int) -> Any:
        return STEPS[plan.kind](model, examples, plan.lengths)

    autocast = torch.bfloat16 if plan.run.bf16 else torch.float16 if plan.run.fp16 else None
    return kept_bytes(model, sizes, step, autocast, plan.attention != "flex_attention")


def autocast_copies(plan: TrainingPlan, model: PreTrainedModel) -> float:
    """Bytes of the copies of trainable weights that autocast keeps in a forward pass, also with checkpointing."""
    if not (plan.run.bf16 or plan.run.fp16):
        return 0.0
    names = matrix_names(model)
    trains = [p for name, p in model.named_parameters() if p.requires_grad and name in names]
    return sum(2.0 * p.numel() for p in trains if p.itemsize > 2)


def weight_bytes(plan: TrainingPlan, model: PreTrainedModel) -> float:
    """Bytes of the model and its adapters."""
    saved = sum((p.itemsize - FOUR_BITS) * p.numel() for p in four_bit_weights(plan, model))
    return sum(p.nbytes for p in model.parameters()) - saved


def four_bit_weights(plan: TrainingPlan, model: PreTrainedModel) -> list[torch.Tensor]:
    """Weights that QLoRA quantises to 4 bits (`modeling/four_bit.py`)."""
    if plan.adapters.peft != "qlora":
        return []
    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear) and ".lora_" not in name]
    return [m.weight for name, m in layers if "lm_head" not in name and "projector" not in name]


def optimizer_bytes(name: str) -> float:
    """Bytes for each trainable float32 parameter: two moments, or Adafactor's momentum in bfloat16."""
    return 2.0 if "8bit" in name or "adafactor" in name else 0.0 if name == "sgd" else 8.0


def single_gpu_overhead(plan: TrainingPlan, model: PreTrainedModel) -> float:
    """Extra bytes on one GPU: second gradient of a tied table, chunks of logits, largest 4-bit layer dequantised."""
    head: Any = model.get_output_embeddings()
    found = max((2.0 * p.numel() for p in four_bit_weights(plan, model)), default=0.0)
    if plan.kind == "pali3" and plan.config.text_config.model_type == "t5" and plan.adapters.peft == "none":
        text = plan.config.text_config
        tokens = most_image_tokens(plan.config.vision_config) + plan.lengths.prompt
        # the gradient of relative positions; the positions themselves count as activations
        found += 4.0 * text.num_heads * tokens**2
    if head is None:
        return found
    if head.weight is model.get_input_embeddings().weight and head.weight.requires_grad:
        found += head.weight.nbytes
    # logits and their gradient, each in float32 and in the dtype of the products
    tokens = plan.lengths.target * plan.run.per_device_train_batch_size
    return found + 12.0 * max(CHUNK_LOGITS, 1024 * tokens)


def largest_unit(model: PreTrainedModel, stacks: Sequence[Stack]) -> int:
    """Parameters of the largest unit that is gathered at once: a layer or an embedding table."""
    tables = [module.weight.numel() for module in model.modules() if isinstance(module, nn.Embedding)]
    return max([*tables, *(stack.layer_weights() for stack in stacks)])
