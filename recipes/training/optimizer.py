"""What trains, at which learning rate and weight decay: components of a model, freezing, and optimizer groups."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from openpali.data.files.config import ConfigError, nearest
from openpali.eval.answering.load_model import adapter_parameters
from openpali.modeling.four_bit import scalars
from openpali.recipes.run.arguments import RunArguments

# boxes of the papers' figures, by the names of Transformers' modules
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
    "teacher",
)


def component_of(name: str) -> str:
    """The component of a parameter: the first part of its dotted name that is one of `COMPONENTS`."""
    parts = name.split(".")
    # T5Gemma's encoder is not in `COMPONENTS` and lies one level down, and so do SigLIP's scale and bias in SigLIP 2
    inside = parts[0] == "siglip" or (parts[0] == "model" and len(parts) > 2)
    first = parts[1] if inside else parts[0]
    return next((part for part in parts if part in COMPONENTS), first)


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
    """One row of the table: parameters of one component and how they train.

    Attributes:
        name: of the component.
        lr_multiplier: factor on the learning rate.
        weight_decay: of the matrices.
        frozen: whether `freeze` lists it.
        matrices: weights of linear and convolutional layers; in a model with adapters only those of adapters.
        others: all other trainable parameters.
        base: weights that adapters are added to; they never train.
    """

    name: str
    lr_multiplier: float
    weight_decay: float
    frozen: bool
    matrices: list[nn.Parameter] = field(default_factory=list)
    others: list[nn.Parameter] = field(default_factory=list)
    base: list[nn.Parameter] = field(default_factory=list)

    def trainable(self) -> int:
        """Number of parameters that train."""
        return 0 if self.frozen else count(self.matrices + self.others)


def count(parameters: Iterable[nn.Parameter]) -> int:
    """Number of scalars in parameters, also of packed 4-bit ones."""
    return sum(map(scalars, parameters))


def components(model: nn.Module, args: RunArguments) -> list[Component]:
    """Sort a model's parameters into components, in the model's order; freezes nothing yet.

    In a model with adapters only adapters can train.

    Raises:
        ConfigError: if `freeze` or `lr_multipliers` names a component that the model lacks.
    """
    multipliers = args.lr_multipliers if isinstance(args.lr_multipliers, dict) else {}
    matrices, table = matrix_names(model), {}
    adapters = adapter_parameters(model)
    for name, parameter in model.named_parameters():
        key = component_of(name)
        if key not in table:
            decays = args.weight_decay if key in args.decay else 0.0
            table[key] = Component(key, float(multipliers.get(key, 1.0)), decays, key in args.freeze)
        row = table[key]
        trains = row.matrices if name in matrices else row.others
        (row.base if adapters and name not in adapters else trains).append(parameter)
    for option, names in (("freeze", args.freeze), ("lr_multipliers", multipliers)):
        for name in names:
            if name not in table:
                raise ConfigError(f"{option}: this model has no component {name!r}{nearest(name, table)}")
    if any(row.lr_multiplier <= 0 for row in table.values()):
        raise ConfigError("lr_multipliers must be positive; list a component in freeze to stop it from training")
    return list(table.values())


def freeze(table: list[Component]) -> None:
    """Switch gradients on for trainable parameters of components that are not frozen, and off for all others.

    Raises:
        ConfigError: nothing is left to train.
    """
    for row in table:
        for parameter in row.base:
            parameter.requires_grad_(False)
        for parameter in row.matrices + row.others:
            parameter.requires_grad_(not row.frozen)
    if not any(row.trainable() for row in table):
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
                groups.append({"params": parameters, "lr": lr, "weight_decay": wd, "component": row.name})
    return groups


def format_table(table: list[Component], learning_rate: float) -> str:
    """The table as text, with parameter counts; those of adapters have their own column."""
    adapted = any(row.base for row in table)
    titles = ["parameters", "adapters", "trainable"] if adapted else ["parameters", "trainable"]
    lines, numbers = [format_row("component", titles, "peak lr", "weight decay")], []
    for row in table:
        own, trained = count(row.matrices + row.others), row.trainable()
        numbers.append([count(row.base), own, trained] if adapted else [own, trained])
        decay = f"{row.weight_decay:g} on {count(row.matrices):,}" if row.weight_decay else "none"
        rate = (f"{learning_rate * row.lr_multiplier:.3g}", decay) if trained else ("frozen", "")
        lines.append(format_row(row.name, numbers[-1], *rate))
    lines.append(format_row("total", [sum(column) for column in zip(*numbers)]))
    return "\n".join(lines)


def format_row(name: str, numbers: Sequence[int | str], rate: str = "", decay: str = "") -> str:
    """One row of the table."""
    cells = "".join(f"{cell if isinstance(cell, str) else f'{cell:,}':>15}" for cell in numbers)
    return f"{name:<22}{cells}{rate:>11}  {decay}".rstrip()
