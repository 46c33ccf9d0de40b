"""Memory, FLOPs and GPUs of a training, estimated from its plan.

The model is built on the meta device, so that parameters take no memory. For texts of maximal length:

- Weights: 4 bytes each, 2 in bfloat16; under adapters they are bfloat16, as on a GPU. 4-bit ones, which are all linear
  layers but LM head and projector, are 0.516 bytes with their scales. Adapters are float32.
- For each trainable parameter, its gradient, and 8 bytes of Adam (2 for Adafactor and 8-bit optimizers).
- Activations: the tensors that a forward pass keeps for backward, by running one without memory
  (`activation_memory.py`). With activation checkpointing, the inputs of layers, and the activations of one layer. Half
  of the largest layer's are added for gradients during its backward pass.
- Overhead on one GPU: autocast's copies of weights, a second gradient of a tied embedding table, chunks of the loss,
  T5's relative positions and their gradient, the largest 4-bit layer dequantised, and 1.5 GB for the CUDA context,
  libraries and fragmentation. Under full sharding on several: the largest layer or table, gathered in bfloat16 with
  its gradient, and 4 GB for the context, communication and fragmentation.
- FLOPs: 2 for each weight of a product and token, 4 x tokens x keys x queries' width for attention, 0 for norms and
  adapters. Backward is twice forward for trainable weights, once for frozen weights above trainable ones;
  checkpointing adds one forward. Logits are computed twice (`modeling/token_loss.py`).
- Days: at 40 % of 989 TFLOP/s, the dense bfloat16 peak of an H100.
"""

from dataclasses import dataclass

from openpali.data.files.config import ConfigError
from openpali.modeling.image_patches import most_image_tokens
from openpali.recipes.costs.activation_memory import Kept
from openpali.recipes.costs.layer_flops import stacks_of
from openpali.recipes.costs.plan import TrainingPlan
from openpali.recipes.costs.plan_memory import (
    activations,
    autocast_copies,
    build,
    component_table,
    largest_unit,
    optimizer_bytes,
    single_gpu_overhead,
    weight_bytes,
)
from openpali.recipes.training.optimizer import format_table

GB = 1e9
GPU_BYTES = 80 * GB
GPUS = (16, 24, 48, 80)
RESERVED_BYTES, RESERVED_ALONE = 4 * GB, 1.5 * GB
# gradients during the backward pass of the largest layer, as a share of its activations
BACKWARD_SHARE = 0.5
PEAK_FLOPS, UTILISATION = 989e12, 0.4
# GPUs come in powers of two until a node is full, then in nodes
COUNTS = (1, 2, 4, *range(8, 8 * 512 + 1, 8))


@dataclass(frozen=True)
class StageCosts:
    """Costs of a training; bytes of activations are those of one example.

    Attributes:
        parameters: of the model, without adapters.
        trained: trainable ones, those of adapters included.
        weight_bytes, gradient_bytes, optimizer_bytes: of all processes together.
        gathered_bytes: on every GPU under full sharding, whatever their number.
        alone_bytes: overhead on one GPU without sharding.
        copied_bytes: copies by autocast that outlive their layer with activation checkpointing.
        kept: activations without activation checkpointing, and with it.
        checkpointing: whether the training uses it.
        flops: of one example, forward and backward.
        image_tokens, text_tokens, target_tokens: of one example, at most.
        assumed: whether the lengths of texts are assumed.
        micro_batch: examples a GPU holds at a time.
        examples_per_step: of one process.
        steps: of the training; 0 where it has epochs, whose steps depend on the data.
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
        """Bytes on each of several GPUs under full sharding, or on one GPU."""
        kept = self.example_bytes(self.checkpointing) * self.micro_batch
        if gpus == 1:
            return self.standing_bytes(self.checkpointing) + kept
        sharded = self.weight_bytes + self.gradient_bytes + self.optimizer_bytes
        return sharded / gpus + self.gathered_bytes + self.kept[1].fixed + kept + RESERVED_BYTES

    def example_bytes(self, checkpointing: bool) -> float:
        """Bytes of each example: activations, and gradients during the backward pass of a layer."""
        kept = self.kept[checkpointing]
        return kept.example + BACKWARD_SHARE * kept.layer

    def standing_bytes(self, checkpointing: bool) -> float:
        """Bytes on one GPU without an example."""
        held = self.weight_bytes + self.gradient_bytes + self.optimizer_bytes
        return held + self.overhead_bytes(checkpointing)

    def overhead_bytes(self, checkpointing: bool) -> float:
        """Overhead on one GPU, whatever the batch."""
        copied = self.copied_bytes if checkpointing else 0.0
        return self.alone_bytes + self.kept[checkpointing].fixed + copied + RESERVED_ALONE

    def fits(self, gigabytes: float, checkpointing: bool) -> int:
        """Number of examples that fit on one GPU."""
        return max(0, int((gigabytes * GB - self.standing_bytes(checkpointing)) // self.example_bytes(checkpointing)))

    def gpus(self) -> int:
        """Fewest 80 GB GPUs under full sharding.

        Raises:
            ConfigError: the activations of a micro-batch are too large for any number.
        """
        for count in COUNTS:
            if self.gpu_bytes(count) <= GPU_BYTES:
                return count
        raise ConfigError(
            f"{self.micro_batch} examples do not fit into 80 GB: lower per_device_train_batch_size or set"
            " activation_checkpointing"
        )

    def days(self, gpus: int) -> float:
        """Duration of the training on several GPUs."""
        return self.steps * self.examples_per_step * self.flops / (PEAK_FLOPS * UTILISATION) / 86400

    def lines(self, processes: int | None = None) -> list[str]:
        """Lines of the printed table."""
        texts = f", {self.text_tokens:,} of the prompt and {self.target_tokens:,} of the target at most"
        return [
            f"tokens of an example   {self.image_tokens:,} of its image{texts}"
            f"{' (assumed: the configuration does not limit them)' if self.assumed else ''}",
            f"parameters             {self.parameters / 1e9:.3f}B, {self.trained / 1e9:.3f}B trained",
            f"weights                {self.weight_bytes / GB:8.1f} GB",
            f"gradients              {self.gradient_bytes / GB:8.1f} GB",
            f"optimizer state        {self.optimizer_bytes / GB:8.1f} GB",
            f"overhead on one GPU    {self.overhead_bytes(False) / GB:8.1f} GB,"
            f" {self.overhead_bytes(True) / GB:.1f} GB with checkpointing",
            f"activations            {self.example_bytes(False) / GB:8.2f} GB an example,"
            f" {self.example_bytes(True) / GB:.2f} GB with checkpointing; a GPU holds {self.micro_batch} examples"
            f" {'with' if self.checkpointing else 'without'} it",
            f"examples on one GPU    {', '.join(map(self.one_gpu, GPUS))}; in parentheses with checkpointing",
            *self.sharded_lines(processes),
        ]

    def one_gpu(self, gigabytes: int) -> str:
        """The number of examples that fit on a GPU, in parentheses with activation checkpointing."""
        without, with_it = (self.fits(gigabytes, checkpointing) for checkpointing in (False, True))
        return f"{gigabytes} GB: {without} ({with_it})"

    def sharded_lines(self, processes: int | None) -> list[str]:
        """Lines about several GPUs: memory, FLOPs, number and duration."""
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


def stage_costs(plan: TrainingPlan, kept: tuple[Kept, Kept] | None = None) -> tuple[StageCosts, str]:
    """Costs of a training, and the table of its components.

    Args:
        plan: of the training.
        kept: activations of a step, where they are known from a plan that differs in the dtype of weights alone.
    """
    run, config = plan.run, plan.config
    model = build(plan, config)
    table = component_table(plan, model)
    kept = kept or activations(plan, model)
    gradients = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    trained = sum(row.trainable() for row in table)
    stacks = stacks_of(plan.kind, config, plan.lengths)
    trainable = {row.name for row in table if row.trainable()}
    whole = {row.name for row in table if row.trainable() and not row.base}
    checkpointing = bool(run.gradient_checkpointing or run.activation_checkpointing)
    vision = None if plan.kind == "denoise" else config.vision_config
    costs = StageCosts(
        parameters=sum(p.numel() for row in table for p in (row.base or row.matrices + row.others)),
        trained=trained,
        weight_bytes=weight_bytes(plan, model),
        gradient_bytes=float(gradients),
        optimizer_bytes=optimizer_bytes(run.optim) * gradients / 4,
        gathered_bytes=(6.0 if whole else 2.0) * largest_unit(model, stacks),
        alone_bytes=single_gpu_overhead(plan, model),
        copied_bytes=autocast_copies(plan, model),
        kept=kept,
        checkpointing=checkpointing,
        flops=sum(s.flops(s.name in whole, s.has_gradients(trainable), checkpointing) for s in stacks),
        image_tokens=most_image_tokens(vision) if vision else 0,
        text_tokens=plan.lengths.prompt * plan.lengths.texts,
        target_tokens=plan.lengths.target,
        assumed=plan.assumed,
        micro_batch=run.per_device_train_batch_size,
        examples_per_step=run.per_device_train_batch_size * run.gradient_accumulation_steps,
        steps=max(0, run.max_steps),
    )
    return costs, format_table(table, run.learning_rate)
