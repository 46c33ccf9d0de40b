"""LoRA, QLoRA and DoRA: small trainable matrices added to the frozen weights of a checkpoint.

Transformers' integration of peft adds them, so that the model keeps its class: generation, the Trainer and evaluation
need no changes, and `save_pretrained` writes the adapters alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from openpali.data.files.config import ConfigError, nearest
from openpali.eval.answering.load_model import (
    ADAPTER_CONFIG,
    ADAPTER_MARK,
    DORA_MARK,
    adapter_parameters,
    widen_adapters,
)
from openpali.modeling.auto import checkpoint_config, model_class
from openpali.modeling.checkpoints import load_checkpoint
from openpali.modeling.dtypes import DTYPES, dtype_name
from openpali.modeling.four_bit import four_bit_config, load_four_bit, silence_bitsandbytes, sizes
from openpali.modeling.transformers_versions import peft_refusal
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.run.checkpoint_name import check_checkpoint
from openpali.recipes.training.optimizer import component_of

# dtypes in which weights are trained
TRAINED = {name: DTYPES[name] for name in ("float32", "bfloat16")}


@dataclass
class AdapterArguments:
    """Options of adapters, which train in place of the weights."""

    peft: Literal["none", "lora", "qlora", "dora"] = field(
        default="none",
        metadata={
            "help": "none: train the weights; lora: adapters; qlora: adapters on 4-bit weights;"
            " dora: adapters with a magnitude vector"
        },
    )
    lora_rank: int = field(default=16, metadata={"help": "rank of the adapters"})
    lora_alpha: float = field(default=32.0, metadata={"help": "adapters are multiplied by this / lora_rank"})
    lora_dropout: float = field(default=0.0, metadata={"help": "dropout on the adapters' inputs"})
    lora_targets: list[str] = field(
        default_factory=list,
        metadata={"help": "ends of the names of layers with adapters, as in q_proj v_proj; all linear ones if unset"},
    )

    def __post_init__(self):
        if self.peft != "none" and (refusal := peft_refusal()):
            raise ConfigError(refusal)
        if self.lora_rank < 1:
            raise ConfigError(f"lora_rank must be at least 1, not {self.lora_rank}")


def check_start(name: str) -> str:
    """The folder or Hub name of a whole checkpoint.

    Raises:
        ConfigError: it is missing, or holds adapters.
    """
    if Path(name, ADAPTER_CONFIG).exists():
        raise ConfigError(f"model: {name} holds adapters; merge them first: openpali merge {name} NEW_FOLDER")
    return check_checkpoint(name, "model")


def load_for_training(
    name: str, args: AdapterArguments, dtype: Literal["auto", "float32", "bfloat16"], run: RunArguments
) -> PreTrainedModel:
    """Load a checkpoint to train, with new adapters if `args` asks for them.

    Args:
        name: folder or Hub name of a whole checkpoint.
        args: options of adapters.
        dtype: of the weights that are not 4-bit. "auto" is float32, and for frozen weights under adapters bfloat16
            where the GPU supports it.
        run: gives the device and the frozen components.

    Raises:
        ConfigError: no layer is left for adapters, or bitsandbytes is missing.
    """
    kind = model_class(checkpoint_config(name))
    default = torch.float32 if args.peft == "none" else frozen_dtype(run.device)
    chosen = TRAINED.get(dtype, default)
    if args.peft == "qlora":
        try:
            model = load_four_bit(kind, name, four_bit_config(chosen), run.device, run.incomplete_checkpoint)
        except ImportError as error:
            raise ConfigError(str(error)) from error
        run.say(describe_four_bit(model, chosen))
    else:
        model = load_checkpoint(kind, name, incomplete=run.incomplete_checkpoint, dtype=chosen)
    if args.peft != "none":
        layers = add_adapters(model, args, run.freeze)
        scale = f"rank {args.lora_rank}, scaled by {args.lora_alpha / args.lora_rank:g}"
        run.say(f"{args.peft}: adapters of {scale}, in float32, beside {layers} linear layers in {dtype_name(chosen)}")
    return model


def frozen_dtype(device: torch.device) -> torch.dtype:
    """Dtype of frozen weights: bfloat16 on GPUs that support it, else float32.

    T5 overflows in float16, and on CPUs float32 is faster than bfloat16.
    """
    has_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if has_bfloat16 or device.type == "xpu" else torch.float32


def describe_four_bit(model: nn.Module, dtype: torch.dtype) -> str:
    """A sentence about the quantised share of a model and the memory that it saves."""
    name = dtype_name(dtype)
    quantised, total, now, before = sizes(model)
    return (
        f"4-bit NF4 weights with double quantisation, computing in {name}: {quantised:,} of {total:,} parameters;"
        f" {now / 1e6:,.2f} MB of weights instead of {before / 1e6:,.2f} MB in {name}"
    )


def add_adapters(model: PreTrainedModel, args: AdapterArguments, freeze: Sequence[str]) -> int:
    """Add untrained adapters to linear layers; they do not change outputs yet.

    The projector gets adapters too. It is small enough to train whole, but checkpoints would then hold its weights,
    and merging and resuming would need a second code path.

    Args:
        model: its class stays the same.
        args: kind, rank, scale, dropout and targets.
        freeze: components without adapters.

    Returns:
        Number of layers with adapters.

    Raises:
        ConfigError: a target matches no layer, or a weight is zero where DoRA divides by its norm.
    """
    silence_bitsandbytes()
    from peft import LoraConfig

    layers = target_layers(model, args.lora_targets, freeze)
    config = LoraConfig(
        r=args.lora_rank,
        lora_alpha=args.lora_alpha,  # pyright: ignore[reportArgumentType]
        lora_dropout=args.lora_dropout,
        target_modules=layers,
        use_dora=args.peft == "dora",
        task_type="SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM",
    )
    model.add_adapter(config)
    # peft makes it a set, whose order changes from run to run
    config.target_modules = sorted(config.target_modules or layers)
    # a Hub name is valid anywhere; a relative folder only in one working directory
    name = str(model.name_or_path)
    config.base_model_name_or_path = str(Path(name).resolve()) if Path(name).is_dir() else name
    widen_adapters(model)
    for name, parameter in adapter_parameters(model).items():
        if DORA_MARK in name and not parameter.is_meta and not parameter.all():
            layer = name.split(ADAPTER_MARK)[0]
            raise ConfigError(f"dora: {layer} has outputs whose weights are all zero; train it first, or use lora")
    return len(layers)


def target_layers(model: PreTrainedModel, targets: Sequence[str], freeze: Sequence[str]) -> list[str]:
    """Names of the linear layers that get adapters.

    Args:
        model: without adapters.
        targets: ends of names, at a dot; without targets every linear layer except the LM head.
        freeze: components without adapters.

    Raises:
        ConfigError: a target matches no linear layer, or one whose weight the loss reads without calling it.
    """
    head: Any = model.get_output_embeddings()
    modules = dict(model.named_modules())
    linear = {name for name, module in modules.items() if isinstance(module, nn.Linear) and module is not head}
    for target in targets:
        found = {name for name in modules if name == target or name.endswith(f".{target}")}
        if any(modules[name] is head or isinstance(modules[name], nn.Embedding) for name in found):
            raise ConfigError(
                f"lora_targets: {target!r} is an embedding table or the LM head, whose weight the loss"
                " reads directly: an adapter beside it would not be used; leave it out"
            )
        if not found & linear:
            ends = {name.split(".")[-1]: None for name in linear}
            raise ConfigError(f"lora_targets: no linear layer is called {target!r}{nearest(target, ends)}")
    ends = tuple(f".{target}" for target in targets)
    chosen = [
        name
        for name in modules
        if name in linear and component_of(name) not in freeze and (not targets or f".{name}".endswith(ends))
    ]
    if not chosen:
        raise ConfigError("freeze lists every component that lora_targets chooses: no layer is left for adapters")
    return chosen
