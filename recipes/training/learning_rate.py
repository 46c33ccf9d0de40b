"""Learning-rate schedules: cosine, rsqrt with a cool-down, and constant, each after a linear warm-up."""

import math
from collections.abc import Callable

from openpali.recipes.run.arguments import RunArguments


def run_schedule(args: RunArguments, total: int) -> Callable[[int], float]:
    """The schedule that the arguments of a run ask for, over `total` steps."""
    cooldown = args.cooldown_steps if args.cooldown_steps >= 1 else math.ceil(total * args.cooldown_steps)
    return schedule(args.schedule, args.get_warmup_steps(total), total, int(cooldown), args.rsqrt_timescale)


def schedule(kind: str, warmup: int, total: int, cooldown: int = 0, timescale: int = 10_000) -> Callable[[int], float]:
    """Multiplier of the learning rate as a function of the optimizer step.

    Args:
        kind: "cosine" falls to 0 at `total`; "rsqrt" is 1 / sqrt(1 + steps since warm-up / timescale) and has no
            end, with a linear fall to 0 over the last `cooldown` steps; "constant" stays at 1.
        warmup: steps of a linear rise from 0; the multiplier of the first step is then 0. Negative where the warm-up
            ended so many steps before this run, which continues the rsqrt schedule of an earlier one.
        total: steps of the run.
        cooldown: steps of the fall at the end of rsqrt.
        timescale: steps after which rsqrt is 1 / sqrt(2).
    """

    def multiplier(step: int) -> float:
        rise = min(1.0, step / warmup) if warmup > 0 else 1.0
        since = max(0, step - warmup)
        if kind == "cosine":
            return rise * 0.5 * (1 + math.cos(math.pi * min(1.0, since / max(1, total - warmup))))
        if kind == "rsqrt":
            fall = min(1.0, max(0, total - step) / cooldown) if cooldown else 1.0
            return rise * fall / math.sqrt(1 + since / timescale)
        return rise

    return multiplier
