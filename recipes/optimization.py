"""Learning-rate schedules, and the table of what trains, how fast, and what decays."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from openpali.recipes.arguments import RunArguments
from openpali.recipes.config_file import ConfigError, nearest

# the boxes of the papers' figures by the names that Transformers' modules have
COMPONENTS = (
    "vision_tower",
    "vision_model",
    "projector",
    "multi_modal_projector",
    "text_encoder",
    "text_model",
    "language_model",
    "decoder",
    "lm_head",
)


def schedule(kind: str, warmup: int, total: int, cooldown: int = 0, timescale: int = 10_000) -> Callable[[int], float]:
    """Multiplier of the learning rate as a function of the optimizer step.

    Args:
        kind: "cosine" falls to 0 at `total`; "rsqrt" is 1 / sqrt(1 + steps since warm-up / timescale) and can go
            on for ever, with a linear fall to 0 over the last `cooldown` steps; "constant" stays at 1.
        warmup: steps of a linear rise from 0; the multiplier of the first step is then 0.
        total: steps of the run.
        cooldown: steps of the fall at the end of rsqrt.
        timescale: steps after which rsqrt is 1 / sqrt(2).
    """

    def multiplier(step: int) -> float:
        rise = min(1.0, step / warmup) if warmup else 1.0
        since = max(0, step - warmup)
        if kind == "cosine":
            return rise * 0.5 * (1 + math.cos(math.pi * min(1.0, since / max(1, total - warmup))))
        if kind == "rsqrt":
            fall = min(1.0, max(0, total - step) / cooldown) if cooldown else 1.0
            return rise * fall / math.sqrt(1 + since / timescale)
        return rise

    return multiplier


def component_of(name: str) -> str:
    """The component that a parameter belongs to, by the first part of its dotted name that is one."""
    parts = name.split(".")
    return next((part for part in parts if part in COMPONENTS), parts[0])


def matrix_names(model: nn.Module) -> set[str]:
    """Parameters that may decay: weights of linear and convolutional layers, no embeddings, biases or norms."""
    names = set()
    for prefix, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            names.add(f"{prefix}.weight")
        elif isinstance(module, nn.MultiheadAttention):
            names.add(f"{prefix}.in_proj_weight")
    return names


@dataclass
class Component:
    """One row of the table: parameters of one component and how they train."""

    name: str
    lr_multiplier: float
    weight_decay: float
    frozen: bool
    matrices: list[nn.Parameter] = field(default_factory=list)
    others: list[nn.Parameter] = field(default_factory=list)

    def count(self) -> int:
        """Number of parameters."""
        return count(self.matrices) + count(self.others)


def count(parameters: Iterable[nn.Parameter]) -> int:
    """Number of scalars in parameters."""
    return sum(p.numel() for p in parameters)


def components(model: nn.Module, args: RunArguments) -> list[Component]:
    """Sort a model's parameters into components, in the model's order; freezes nothing yet.

    Raises:
        ConfigError: if `freeze` or `lr_multipliers` names a component that the model lacks.
    """
    multipliers = args.lr_multipliers if isinstance(args.lr_multipliers, dict) else {}
    matrices, table = matrix_names(model), {}
    for name, parameter in model.named_parameters():
        key = component_of(name)
        if key not in table:
            decays = args.weight_decay if key in args.decay else 0.0
            table[key] = Component(key, float(multipliers.get(key, 1.0)), decays, key in args.freeze)
        row = table[key]
        (row.matrices if name in matrices else row.others).append(parameter)
    for option, names in (("freeze", args.freeze), ("lr_multipliers", multipliers)):
        for name in names:
            if name not in table:
                raise ConfigError(f"{option}: this model has no component {name!r}{nearest(name, table)}")
    if any(row.lr_multiplier <= 0 for row in table.values()):
        raise ConfigError("lr_multipliers must be positive; list a component in freeze to stop it from training")
    return list(table.values())


def freeze(table: list[Component]) -> None:
    """Switch gradients off in frozen components and on in the others.

    Raises:
        ConfigError: if nothing is left to train.
    """
    for row in table:
        for parameter in row.matrices + row.others:
            parameter.requires_grad_(not row.frozen)
    if all(row.frozen for row in table):
        raise ConfigError("freeze lists every component of the model: nothing would train")


def parameter_groups(table: list[Component], learning_rate: float) -> list[dict[str, Any]]:
    """Groups for a torch optimizer.

    The decay of a group is divided by its multiplier, since AdamW multiplies it by the group's learning rate
    while in the reference implementation decay follows the schedule alone.
    """
    groups = []
    for row in table:
        if row.frozen:
            continue
        lr, decay = learning_rate * row.lr_multiplier, row.weight_decay
        for parameters, wd in ((row.matrices, decay / row.lr_multiplier), (row.others, 0.0)):
            if parameters:
                groups.append({"params": parameters, "lr": lr, "weight_decay": wd})
    return groups


def describe(table: list[Component], learning_rate: float) -> str:
    """The table as text, with parameter counts."""
    lines = [f"{'component':<22}{'parameters':>15}{'trainable':>15}{'peak lr':>11}  weight decay"]
    for row in table:
        lr = "frozen" if row.frozen else f"{learning_rate * row.lr_multiplier:.3g}"
        decay = f"{row.weight_decay:g} on {count(row.matrices):,}" if row.weight_decay else "none"
        trainable = 0 if row.frozen else row.count()
        lines.append(
            f"{row.name:<22}{row.count():>15,}{trainable:>15,}{lr:>11}  {'' if row.frozen else decay}".rstrip()
        )
    total, trained = sum(r.count() for r in table), sum(r.count() for r in table if not r.frozen)
    lines.append(f"{'total':<22}{total:>15,}{trained:>15,}")
    return "\n".join(lines)
