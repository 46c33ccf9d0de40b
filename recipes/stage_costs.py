"""What a stage of pretraining costs before it is paid: memory, FLOPs, and how many 80 GB GPUs it needs at least.

    python -m openpali.recipes.stage_costs --config recipes/configs/pali3/stage2-1064.yaml --processes 64

The model is built on the meta device, so that parameters are counted and not held. Everything else is by formula, for
texts of the greatest length:

- Memory that is sharded: 4 bytes a parameter, and for each that trains 4 of gradient and 8 of Adam (Adafactor: none).
- Activations, kept under bfloat16 autocast, of a layer and token, with w = width, q = queries' width, m = the MLP's:
  SigLIP 24w + 4m; Gemma 26w + 8q + 8m, and 2 bytes of mask for each other token; Gemma 2 42w + 8q + 8m; T5's encoder
  26w + 8q + 14m; its decoder 36w + 12q + 14m, and 4w + 4q of each token of the encoder. T5's relative positions are
  8 bytes for each head and pair of tokens, once for all layers. Attention scores are not kept, as by fused kernels
  (of PaliGemma 2, with `attention: flex_attention`).
  With activation checkpointing 4w are left of every layer, and one layer of each stack is whole at a time.
- Besides, on every GPU: the largest layer or table, gathered in bfloat16 with its float32 gradient, and 4 GB for the
  CUDA context, buffers of communication and fragments.
- FLOPs: 2 for each weight of a product and token, 4 x tokens x keys x queries' width for attention, nothing for norms.
  Backward is twice forward where something trains at or below; checkpointing adds one more forward. Logits are
  computed twice (`modeling/token_loss.py`).
- Days: at 40 % of 989 TFLOP/s, the dense bfloat16 peak of an H100.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from openpali import Pali3Config
from openpali.modeling.auto import model_class
from openpali.modeling.checkpoints import load_config
from openpali.modeling.configuration_paligemma import paligemma_preset
from openpali.modeling.mistakes import at_least
from openpali.recipes.arguments import command, parse
from openpali.recipes.config_file import ConfigError, as_dict
from openpali.recipes.optimization import components, describe, freeze
from openpali.recipes.pretrain import PretrainArguments
from openpali.recipes.pretrain_start import StartArguments
from openpali.recipes.stack_costs import Stack, stacks_of
from openpali.recipes.stage_curve import StageArguments

GB = 1e9
GPU_BYTES = 80 * GB
RESERVED_BYTES = 4 * GB
PEAK_FLOPS, UTILISATION = 989e12, 0.4
# GPUs come in powers of two until a node is full, then in nodes
COUNTS = (1, 2, 4, *range(8, 8 * 512 + 1, 8))


@dataclass(frozen=True)
class StageCosts:
    """Costs of a stage. Bytes of activations are those of one example.

    Attributes:
        parameters: of the model.
        trained: those that are not frozen.
        weight_bytes, gradient_bytes, optimizer_bytes: of all processes together.
        gathered_bytes: on every GPU, whatever their number.
        activation_bytes: without activation checkpointing.
        checkpointed_bytes: with it.
        checkpointing: whether the stage does it.
        flops: of one example, forward and backward.
        image_tokens, text_tokens, target_tokens: of one example, at most.
        micro_batch: examples a GPU holds at a time.
        examples_per_step: of one process.
        steps: of the stage.
    """

    parameters: int
    trained: int
    weight_bytes: float
    gradient_bytes: float
    optimizer_bytes: float
    gathered_bytes: float
    activation_bytes: float
    checkpointed_bytes: float
    checkpointing: bool
    flops: float
    image_tokens: int
    text_tokens: int
    target_tokens: int
    micro_batch: int
    examples_per_step: int
    steps: int

    def gpu_bytes(self, gpus: int) -> float:
        """Of each of so many GPUs under full sharding."""
        kept = self.checkpointed_bytes if self.checkpointing else self.activation_bytes
        sharded = self.weight_bytes + self.gradient_bytes + self.optimizer_bytes
        if gpus == 1:
            # autocast keeps bfloat16 copies of weights that nothing gathers
            sharded += self.weight_bytes / 2
        return sharded / gpus + self.gathered_bytes + kept * self.micro_batch + RESERVED_BYTES

    def gpus(self) -> int:
        """Fewest 80 GB GPUs under full sharding.

        Raises:
            ConfigError: if the activations of a micro-batch alone are too large.
        """
        for count in COUNTS:
            if self.gpu_bytes(count) <= GPU_BYTES:
                return count
        raise ConfigError(
            f"{self.micro_batch} examples do not fit into 80 GB: lower per_device_train_batch_size or set"
            " activation_checkpointing"
        )

    def days(self, gpus: int) -> float:
        """Of the whole stage on so many GPUs."""
        return self.steps * self.examples_per_step * self.flops / (PEAK_FLOPS * UTILISATION) / 86400

    def lines(self, processes: int | None = None) -> list[str]:
        """The table that is printed."""
        least = self.gpus()
        count = max(least, processes or least)
        batch = self.examples_per_step * count
        return [
            f"tokens of an example   {self.image_tokens:,} of its picture, {self.text_tokens:,} of the prompt and"
            f" {self.target_tokens:,} of the target at most",
            f"parameters             {self.parameters / 1e9:.3f}B, {self.trained / 1e9:.3f}B of them trained",
            f"weights                {self.weight_bytes / GB:8.1f} GB, sharded",
            f"gradients              {self.gradient_bytes / GB:8.1f} GB, sharded",
            f"optimizer state        {self.optimizer_bytes / GB:8.1f} GB, sharded",
            f"gathered               {self.gathered_bytes / GB:8.1f} GB on every GPU",
            f"activations            {self.activation_bytes / GB:8.2f} GB an example,"
            f" {self.checkpointed_bytes / GB:.2f} GB with checkpointing; a GPU holds {self.micro_batch} examples"
            f" {'with' if self.checkpointing else 'without'} it",
            f"FLOPs                  {self.flops:8.2e} an example, {self.flops * batch:.2e} a step of {batch:,}",
            f"80 GB GPUs             {least} at least, with {self.gpu_bytes(least) / GB:.0f} GB in use on each;"
            f" {self.gpu_bytes(count) / GB:.0f} GB on each of {count}",
            f"time                   {self.days(count):.3g} days for {self.steps * batch:,} examples on {count} GPUs",
        ]


def planned_config(args: StartArguments) -> Any:
    """Configuration of the stage's model: of `model` where that is there already, else of the preset.

    Raises:
        ConfigError: if there is no such preset.
    """
    changes = as_dict(args.model_config, "model_config")
    try:
        if args.model and Path(args.model, "config.json").exists():
            config: Any = load_config(args.model)
        elif args.family == "paligemma":
            config = paligemma_preset(args.preset, **changes)
        else:
            config = Pali3Config.from_preset(args.preset, **changes)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if args.image_size is not None:
        config.vision_config.image_size = args.image_size
    return config


def build(config: Any) -> PreTrainedModel:
    """The model without memory for its weights."""
    with torch.device("meta"):
        return model_class(config)(config)


def stage_costs(args: PretrainArguments, start: StartArguments, run: StageArguments) -> tuple[StageCosts, str]:
    """Costs of a stage, and the table of its components.

    Raises:
        ConfigError: if the lengths of texts or the number of steps are not known.
    """
    if args.max_length is None or args.suffix_max_length is None or run.max_steps <= 0:
        raise ConfigError("costs need max_length, suffix_max_length and max_steps")
    config = planned_config(start)
    model = build(config)
    table = components(model, run)
    freeze(table)
    trained = sum(row.trainable() for row in table)
    weights = sum(parameter.numel() for parameter in model.parameters())
    stacks = stacks_of(config, args.max_length, args.suffix_max_length)
    learns = {row.name for row in table if row.trainable()}
    checkpointing = bool(run.gradient_checkpointing or run.activation_checkpointing)
    costs = StageCosts(
        parameters=weights,
        trained=trained,
        weight_bytes=4.0 * weights,
        gradient_bytes=4.0 * trained,
        optimizer_bytes=0.0 if "adafactor" in run.optim else 8.0 * trained,
        gathered_bytes=6.0 * largest_unit(model, stacks),
        activation_bytes=sum(s.activation_bytes(s.on_the_way(learns), False) for s in stacks),
        checkpointed_bytes=sum(s.activation_bytes(s.on_the_way(learns), True) for s in stacks),
        checkpointing=checkpointing,
        flops=sum(s.flops(s.name in learns, s.on_the_way(learns), checkpointing) for s in stacks),
        image_tokens=(config.vision_config.image_size // config.vision_config.patch_size) ** 2,
        text_tokens=args.max_length,
        target_tokens=args.suffix_max_length,
        micro_batch=run.per_device_train_batch_size,
        examples_per_step=run.per_device_train_batch_size * run.gradient_accumulation_steps,
        steps=run.max_steps,
    )
    return costs, describe(table, run.learning_rate)


def largest_unit(model: PreTrainedModel, stacks: Sequence[Stack]) -> int:
    """Parameters of the largest thing that is gathered at once: a layer, or a table."""
    tables = [module.weight.numel() for module in model.modules() if isinstance(module, torch.nn.Embedding)]
    return max([*tables, *(stack.layer_weights() for stack in stacks)])


@command
def main(argv: list[str] | None = None) -> None:
    """Print the costs of the stage that a configuration describes."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--processes", type=at_least(1), help="GPUs that the stage is meant for")
    own, rest = parser.parse_known_args(argv)
    # what the stage needs elsewhere need not be on this machine
    built = parse([PretrainArguments, StartArguments, StageArguments], [*rest, "--use_cpu", "true"])
    costs, table = stage_costs(*built)
    print(table)
    print("\n".join(costs.lines(own.processes)))


if __name__ == "__main__":
    main()
