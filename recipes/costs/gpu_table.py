"""The guide's table of what fits on one GPU: examples by model, resolution, adapters and memory.

    openpali costs --table

Prompt and answer have 64 tokens each, the optimizer is Adam, autocast is bfloat16. PaLI-3's image encoder is frozen,
as in the paper's transfers; of PaliGemma everything trains, or has adapters.
"""

from collections.abc import Iterator, Sequence

from openpali.recipes.costs.plan import plan_training
from openpali.recipes.costs.stage_costs import GPUS, stage_costs

MODELS = {
    "PaliGemma 3B": ("paligemma/3b", (224, 448, 896)),
    "PaliGemma 2 3B": ("paligemma/2-3b", (224, 448, 896)),
    "PaliGemma 2 10B": ("paligemma/2-10b", (224, 448, 896)),
    "PaliGemma 2 28B": ("paligemma/2-28b", (224, 448, 896)),
    "PaLI-3 1B": ("pali3/1b", (224, 812)),
    "PaLI-3 5B": ("pali3/5b", (224, 812, 1064)),
}
KINDS = {"full": ["--peft", "none"], "LoRA": ["--peft", "lora"], "QLoRA": ["--peft", "qlora"]}
LENGTHS = ["--max_length", "64", "--suffix_max_length", "64", "--bf16", "true"]
MOST = 64  # larger numbers are shown as 64+


def table_lines() -> list[str]:
    """The lines of the table."""
    lines = table_heads()
    for name, (preset, sizes) in MODELS.items():
        for size in sizes:
            lines += rows(name, preset, size)
    return lines


def table_heads() -> list[str]:
    """Its first two lines."""
    heads = [f"{gigabytes} GB" for gigabytes in GPUS]
    return [f"| examples at a time | px | | {' | '.join(heads)} |", f"|---|---|---|{'---|' * len(heads)}"]


def rows(name: str, preset: str, size: int) -> Iterator[str]:
    """A line for each kind of training that fits on some GPU."""
    kept = None
    for kind, options in KINDS.items():
        # 4-bit layers keep what layers in bfloat16 keep
        shared = kept if kind == "QLoRA" else None
        plan = plan_training(["--model", preset, "--resolution", str(size), *options, *LENGTHS])
        costs, _ = stage_costs(plan, shared)
        kept = costs.kept
        fitting = [(costs.fits(memory, False), costs.fits(memory, True)) for memory in GPUS]
        if any(with_it for _, with_it in fitting):
            yield f"| {name} | {size} | {kind} | {' | '.join(map(cell, fitting))} |"


def cell(fitting: Sequence[int]) -> str:
    """Examples without activation checkpointing, and in parentheses with it."""
    without, with_it = (f"{MOST}+" if number >= MOST else str(number) for number in fitting)
    return f"{without} ({with_it})" if fitting[1] else "–"
