"""Checks of half precision: options without effect are refused, weights too coarse to train give a warning."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType

from openpali.data.files.config import ConfigError

# share of weights that a step cannot change: below it a run learns as in float32
WARN_ABOVE = 0.1
SAMPLED = 1 << 16


def check_options(fp16: bool, full_eval: bool, device: torch.device) -> None:
    """Refuse options of Transformers that have no effect here.

    Args:
        fp16: whether to compute in float16, with a loss scaler.
        full_eval: whether evaluation is to cast the weights.
        device: of the run.

    Raises:
        ConfigError: float16 on a CPU, where accelerate has neither autocast nor a scaler, silently; casts for
            evaluation, which uses the weights as they train.
    """
    if fp16 and device.type == "cpu":
        raise ConfigError("fp16: nothing is computed in float16 on a CPU; use bf16: true, or leave it out")
    if full_eval:
        raise ConfigError("bf16_full_eval and fp16_full_eval: the weights are evaluated as they train; leave them out")


@torch.no_grad()
def unchanged_share(groups: Sequence[dict[str, Any]]) -> float:
    """Share of the weights that are in bfloat16 and too large for a step to change.

    A step of Adam moves a weight by about the learning rate; less than half the distance to the next bfloat16 number
    is rounded away.

    Args:
        groups: of the optimizer, with `params` and `lr`.

    Returns:
        Between 0 and 1, estimated from evenly spread weights of each parameter.
    """
    unchanged, total = 0.0, 0
    for group in groups:
        for parameter in group["params"]:
            total += parameter.numel()
            if parameter.dtype == torch.bfloat16:
                sample = parameter.flatten()[:: -(-parameter.numel() // SAMPLED)]
                # a number m * 2**e with m in [0.5, 1) is 2**(e - 8) away from the next
                halves = torch.exp2(torch.frexp(sample.float()).exponent - 9.0)
                stays = (halves > group["lr"]) & (sample != 0)
                unchanged += parameter.numel() * float(stays.float().mean())
    return unchanged / total if total else 0.0


def check_weights(groups: Sequence[dict[str, Any]], accelerator: Accelerator, say: Callable[[str], None]) -> None:
    """Check the type of the weights that train.

    Args:
        groups: of the optimizer, with `params`, `lr` and the name of their `component`.
        accelerator: of the run.
        say: prints the warning where many weights would not change.

    Raises:
        ConfigError: weights in float16, in which gradients below 6e-8 and squares of gradients below 2e-4 are 0
            without a scaler.
    """
    for group in groups:
        if any(parameter.dtype == torch.float16 for parameter in group["params"]):
            raise ConfigError(
                f"{group['component']} is in float16, in which small gradients are 0: load the model with"
                " dtype=torch.float32, and add bf16: true (fp16: true on GPUs without bfloat16)"
            )
    # these engines train a copy of the weights in float32
    if accelerator.distributed_type in (DistributedType.DEEPSPEED, DistributedType.FSDP):
        return
    share = unchanged_share(groups)
    if share >= WARN_ABOVE:
        say(
            f"Warning: {share:.0%} of the weights that train are in bfloat16 and too large for a step of this learning"
            " rate to change: they stay as they are. Take dtype: float32 with bf16: true, or a larger learning_rate"
        )
