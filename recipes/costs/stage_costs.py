"""Memory, FLOPs and GPUs of a training, reckoned from its plan.

The model is built on the meta device, so that parameters are counted and not held. For texts of the greatest length:

- Weights: 4 bytes each, 2 in bfloat16; under adapters they are bfloat16, as on a GPU. 4-bit ones, that is all linear
  layers but vocabulary and projector, are 0.516 bytes with their scales. Adapters are float32.
- For each parameter that trains, its gradient, and 8 bytes of Adam (`optim` with 8bit in its name 2, Adafactor 2).
- Activations: what a forward pass keeps for backward, by running one without memory (`activation_memory.py`). With
  activation checkpointing, what goes into layers, and one layer whole at a time. Half of the largest layer's is added
  for gradients that live while it is passed backward.
- Besides on one GPU: the copies that autocast makes of weights, a second gradient of a table that is embedding and
  projection in one, chunks of the loss, T5's relative positions and their gradient, the largest 4-bit layer
  dequantised, and 1.5 GB for the CUDA context, libraries and fragments. Under full sharding on several: the largest
  layer or table, gathered in bfloat16 with its gradient, and 4 GB for the context, communication and fragments.
- FLOPs: 2 for each weight of a product and token, 4 x tokens x keys x queries' width for attention, nothing for norms
  and adapters. Backward is twice forward where something trains at or below, once where weights are frozen on the way;
  checkpointing adds one more forward. Logits are computed twice (`modeling/token_loss.py`).
- Days: at 40 % of 989 TFLOP/s, the dense bfloat16 peak of an H100.
"""

from dataclasses import dataclass

from openpali.data.files.config import ConfigError
from openpali.recipes.costs.activation_memory import Kept
from openpali.recipes.costs.layer_flops import stacks_of
from openpali.recipes.costs.plan import Planned
from openpali.recipes.costs.plan_memory import (
    activations,
    autocast_copies,
    besides,
    build,
    component_table,
    largest_unit,
    optimizer_bytes,
    weight_bytes,
)
from openpali.recipes.training.optimizer import format_table

GB = 1e9
GPU_BYTES = 80 * GB
GPUS = (16, 24, 48, 80)
RESERVED_BYTES, RESERVED_ALONE = 4 * GB, 1.5 * GB
# of what the largest layer keeps, in gradients that live while it is passed backward
PASSING = 0.5
PEAK_FLOPS, UTILISATION = 989e12, 0.4
# GPUs come in powers of two until a node is full, then in nodes
COUNTS = (1, 2, 4, *range(8, 8 * 512 + 1, 8))


@dataclass(frozen=True)
class StageCosts:
    """Costs of a training. Bytes of activations are those of one example.

    Attributes:
        parameters: of the model, without adapters.
        trained: those that are not frozen, or the adapters'.
        weight_bytes, gradient_bytes, optimizer_bytes: of all processes together.
        gathered_bytes: on every GPU under full sharding, whatever their number.
        alone_bytes: besides, on one GPU without sharding.
        copied_bytes: copies by autocast that outlive their layer with activation checkpointing.
        kept: without activation checkpointing, and with it.
        checkpointing: whether the training does it.
        flops: of one example, forward and backward.
        image_tokens, text_tokens, target_tokens: of one example, at most.
        assumed: whether lengths of texts are a guess.
        micro_batch: examples a GPU holds at a time.
        examples_per_step: of one process.
        steps: of the training; 0 where epochs count, whose steps depend on the data.
    """

    parameters: int
    trained: int
    weight_bytes: float
    gradient_bytes: float
    optimizer_bytes: float
    gathered_bytes: float
    alone_bytes: float
    copied_bytes: float
    kept: tuple[Kept, Kept]
    checkpointing: bool
    flops: float
    image_tokens: int
    text_tokens: int
    target_tokens: int
    assumed: bool
    micro_batch: int
    examples_per_step: int
    steps: int

    def gpu_bytes(self, gpus: int) -> float:
        """Of each of so many GPUs under full sharding."""
        kept = self.example_bytes(self.checkpointing) * self.micro_batch
        if gpus == 1:
            return self.standing_bytes(self.checkpointing) + kept
        sharded = self.weight_bytes + self.gradient_bytes + self.optimizer_bytes
        return sharded / gpus + self.gathered_bytes + self.kept[1].fixed + kept + RESERVED_BYTES

    def example_bytes(self, checkpointing: bool) -> float:
        """Of each example: what is kept, and what lives for a moment in the backward pass of a layer."""
        kept = self.kept[checkpointing]
        return kept.example + PASSING * kept.layer

    def standing_bytes(self, checkpointing: bool) -> float:
        """Of one GPU before it holds an example."""
        held = self.weight_bytes + self.gradient_bytes + self.optimizer_bytes
        return held + self.besides_bytes(checkpointing)

    def besides_bytes(self, checkpointing: bool) -> float:
        """Of one GPU, whatever it holds."""
        copied = self.copied_bytes if checkpointing else 0.0
        return self.alone_bytes + self.kept[checkpointing].fixed + copied + RESERVED_ALONE

    def fits(self, gigabytes: float, checkpointing: bool) -> int:
        """Examples at a time on one GPU; 0 where not even one fits."""
        return max(0, int((gigabytes * GB - self.standing_bytes(checkpointing)) // self.example_bytes(checkpointing)))

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
        """Of the whole training on so many GPUs."""
        return self.steps * self.examples_per_step * self.flops / (PEAK_FLOPS * UTILISATION) / 86400

    def lines(self, processes: int | None = None) -> list[str]:
        """The table that is printed."""
        texts = f", {self.text_tokens:,} of the prompt and {self.target_tokens:,} of the target at most"
        return [
            f"tokens of an example   {self.image_tokens:,} of its image{texts}"
            f"{' (assumed: the configuration does not limit them)' if self.assumed else ''}",
            f"parameters             {self.parameters / 1e9:.3f}B, {self.trained / 1e9:.3f}B trained",
            f"weights                {self.weight_bytes / GB:8.1f} GB",
            f"gradients              {self.gradient_bytes / GB:8.1f} GB",
            f"optimizer state        {self.optimizer_bytes / GB:8.1f} GB",
            f"besides on one GPU     {self.besides_bytes(False) / GB:8.1f} GB,"
            f" {self.besides_bytes(True) / GB:.1f} GB with checkpointing",
            f"activations            {self.example_bytes(False) / GB:8.2f} GB an example,"
            f" {self.example_bytes(True) / GB:.2f} GB with checkpointing; a GPU holds {self.micro_batch} examples"
            f" {'with' if self.checkpointing else 'without'} it",
            f"examples on one GPU    {', '.join(map(self.one_gpu, GPUS))}; in parentheses with checkpointing",
            *self.sharded_lines(processes),
        ]

    def one_gpu(self, gigabytes: int) -> str:
        """How many examples a GPU holds."""
        without, with_it = (self.fits(gigabytes, checkpointing) for checkpointing in (False, True))
        return f"{gigabytes} GB: {without} ({with_it})"

    def sharded_lines(self, processes: int | None) -> list[str]:
        """What several GPUs need, and how long they take."""
        try:
            least = self.gpus()
        except ConfigError as error:
            return [f"several GPUs           {error}"]
        count = max(least, processes or least)
        batch = self.examples_per_step * count
        lines = [
            f"gathered               {self.gathered_bytes / GB:8.1f} GB on every GPU, where several share the rest",
            f"FLOPs                  {self.flops:8.2e} an example, {self.flops * batch:.2e} a step of {batch:,}",
            f"80 GB GPUs             {least} at least, with {self.gpu_bytes(least) / GB:.0f} GB in use on each;"
            f" {self.gpu_bytes(count) / GB:.0f} GB on each of {count}",
        ]
        if self.steps > 0:
            time = f"{self.days(count):.3g} days for {self.steps * batch:,} examples on {count} GPUs"
            lines.append(f"time                   {time}")
        return lines


def stage_costs(planned: Planned, kept: tuple[Kept, Kept] | None = None) -> tuple[StageCosts, str]:
    """Costs of a training, and the table of its components.

    Args:
        planned: the training.
        kept: what a step of it keeps, where that is known from another one that differs in its weights alone.
    """
    run, config = planned.run, planned.config
    model = build(planned, config)
    table = component_table(planned, model)
    kept = kept or activations(planned, model)
    gradients = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    trained = sum(row.trainable() for row in table)
    stacks = stacks_of(planned.kind, config, planned.lengths)
    learns = {row.name for row in table if row.trainable()}
    whole = {row.name for row in table if row.trainable() and not row.base}
    checkpointing = bool(run.gradient_checkpointing or run.activation_checkpointing)
    vision = None if planned.kind == "denoise" else config.vision_config
    costs = StageCosts(
        parameters=sum(p.numel() for row in table for p in (row.base or row.matrices + row.others)),
        trained=trained,
        weight_bytes=weight_bytes(planned, model),
        gradient_bytes=float(gradients),
        optimizer_bytes=optimizer_bytes(run.optim) * gradients / 4,
        gathered_bytes=(6.0 if whole else 2.0) * largest_unit(model, stacks),
        alone_bytes=besides(planned, model),
        copied_bytes=autocast_copies(planned, model),
        kept=kept,
        checkpointing=checkpointing,
        flops=sum(s.flops(s.name in whole, s.on_the_way(learns), checkpointing) for s in stacks),
        image_tokens=(vision.image_size // vision.patch_size) ** 2 if vision else 0,
        text_tokens=planned.lengths.prompt * planned.lengths.texts,
        target_tokens=planned.lengths.target,
        assumed=planned.assumed,
        micro_batch=run.per_device_train_batch_size,
        examples_per_step=run.per_device_train_batch_size * run.gradient_accumulation_steps,
        steps=max(0, run.max_steps),
    )
    return costs, format_table(table, run.learning_rate)
