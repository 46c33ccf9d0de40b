"""Adafactor as in big_vision: Adam with little state, for models whose moments would not fit into memory.

Differences from the Adafactor of Shazeer and Stern (arXiv 1804.04235), of torch and of Transformers:
- steps are not scaled by the size of the parameters: the learning rate has its meaning in Adam;
- momentum is kept, in bfloat16, over normalised gradients and before the learning rate;
- the second moment's decay rises as 1 - step^-0.8 but no further than 0.999 (as for ViT-G, arXiv 2106.04560);
- matrices with a side below 32 keep their whole second moment; only `clip_threshold` clips anything.

Weight decay is AdamW's: apart from the gradient, and multiplied by the learning rate of the group.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch.optim import Optimizer

from openpali.data.files.config import ConfigError, nearest


class Adafactor(Optimizer):
    """Adafactor; the state of an `[m, n]` matrix is its momentum in bfloat16, and m + n numbers in float32."""

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        momentum: float = 0.9,
        decay_exponent: float = 0.8,
        beta2_cap: float = 0.999,
        eps: float = 1e-30,
        clip_threshold: float | None = None,
        min_dim_size_to_factor: int = 32,
        weight_decay: float = 0.0,
    ):
        """Create the optimizer.

        Args:
            params: parameters, or groups of them with their own `lr` and `weight_decay`.
            lr: learning rate.
            momentum: decay of the mean of normalised gradients; 0 keeps none.
            decay_exponent: the second moment decays by 1 - step^-decay_exponent.
            beta2_cap: upper limit of this decay.
            eps: added to squared gradients.
            clip_threshold: normalised gradients whose root mean square is larger are scaled down to it.
            min_dim_size_to_factor: tensors whose second longest side is at least this keep means along the two
                longest sides instead of the whole second moment.
            weight_decay: a step multiplies parameters by 1 - `lr` * `weight_decay`.

        Raises:
            ValueError: a value out of its range.
        """
        for name, value in (("momentum", momentum), ("beta2_cap", beta2_cap)):
            if not 0 <= value < 1:
                raise ValueError(f"{name}={value}: it is at least 0 and below 1")
        if lr < 0 or weight_decay < 0 or decay_exponent <= 0 or eps <= 0:
            raise ValueError(
                f"lr={lr}, weight_decay={weight_decay}: not negative;"
                f" decay_exponent={decay_exponent}, eps={eps}: positive"
            )
        options = {"momentum": momentum, "decay_exponent": decay_exponent, "beta2_cap": beta2_cap, "eps": eps}
        options |= {"clip_threshold": clip_threshold, "min_dim_size_to_factor": min_dim_size_to_factor}
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay} | options)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step for every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.update(parameter, group)
        return loss

    def update(self, parameter: torch.Tensor, group: dict[str, Any]) -> None:
        """One step of one parameter."""
        gradient, state = cast(torch.Tensor, parameter.grad).float(), self.state[parameter]
        if not state:
            # a tensor, as in torch's optimizers, which distributed checkpoints expect
            state["step"] = torch.tensor(0.0)
        state["step"] += 1
        decay = min(group["beta2_cap"], 1 - state["step"].item() ** -group["decay_exponent"])
        direction = normalised(gradient, state, decay, group["eps"], group["min_dim_size_to_factor"])
        if group["clip_threshold"] is not None:
            direction = direction / (direction.square().mean().sqrt() / group["clip_threshold"]).clamp(min=1)
        if group["momentum"]:
            direction = apply_momentum(direction, state, group["momentum"])
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(direction.to(parameter.dtype), alpha=-group["lr"])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state in its saved dtypes; torch would cast every tensor to the parameter's dtype."""
        super().load_state_dict(state_dict)
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for number, parameter in zip(numbers, parameters, strict=True):
            for name, value in state_dict["state"].get(number, {}).items():
                self.state[parameter][name] = value if name == "step" else value.to(parameter.device, copy=True)


def normalised(gradient: torch.Tensor, state: dict[str, Any], decay: float, eps: float, smallest: int) -> torch.Tensor:
    """The gradient divided by the root of its second moment, whose estimate in `state` is updated."""
    squared = gradient.square() + eps
    sides = factored_sides(gradient.shape, smallest)
    if sides is None:
        return gradient * update_mean(state, "moment", squared, decay).rsqrt()
    short, long = sides
    of_short = update_mean(state, "short_means", squared.mean(dim=long, keepdim=True), decay)
    of_long = update_mean(state, "long_means", squared.mean(dim=short, keepdim=True), decay)
    return gradient * (of_short / of_short.mean(dim=short, keepdim=True)).rsqrt() * of_long.rsqrt()


def update_mean(state: dict[str, Any], name: str, value: torch.Tensor, decay: float) -> torch.Tensor:
    """Update the running mean `name` in `state` with a value, and return it."""
    if name in state:
        state[name].mul_(decay).add_(value, alpha=1 - decay)
    else:
        state[name] = value
    return state[name]


def factored_sides(shape: torch.Size, smallest: int) -> tuple[int, int] | None:
    """Dimensions of the second longest and the longest side; None where the second longest is below `smallest`."""
    order = sorted(range(len(shape)), key=lambda dim: shape[dim])
    if len(shape) < 2 or shape[order[-2]] < smallest:
        return None
    return order[-2], order[-1]


def apply_momentum(direction: torch.Tensor, state: dict[str, Any], momentum: float) -> torch.Tensor:
    """Running mean of directions in float32; its stored copy and its decay are rounded, as in big_vision."""
    mean = direction * (1 - momentum)
    if "momentum" in state:
        rounded = torch.tensor(momentum, dtype=torch.bfloat16).item()
        mean += state["momentum"] * rounded
    state["momentum"] = mean.bfloat16()
    return mean


def adafactor_options(text: str | None) -> dict[str, float]:
    """Options of [`Adafactor`] from TrainingArguments' `optim_args`, as in `momentum=0.9,clip_threshold=1`.

    Raises:
        ConfigError: an unknown option, or a value that is not a number.
    """
    known = ("momentum", "decay_exponent", "beta2_cap", "eps", "clip_threshold", "min_dim_size_to_factor")
    options = {}
    for part in filter(None, (part.strip() for part in (text or "").split(","))):
        name, _, value = part.partition("=")
        if name.strip() not in known:
            raise ConfigError(f"optim_args: Adafactor has no option {name!r}{nearest(name, dict.fromkeys(known))}")
        try:
            options[name.strip()] = float(value)
        except ValueError as error:
            raise ConfigError(f"optim_args: {name.strip()} must be a number, not {value!r}") from error
    return options
