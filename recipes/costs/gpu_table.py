"""What fits on one GPU: the guide's table of models, resolutions, adapters and batches by memory.

    openpali costs --table

Texts are of 64 tokens and 64 in the answer, the optimizer is Adam, computing is in bfloat16. PaLI-3's image encoder is
frozen, as in its authors' transfers; of PaliGemma everything trains, or has adapters.
"""

from collections.abc import Iterator, Sequence

from openpali.recipes.costs.plan import plan
from openpali.recipes.costs.stage_costs import GPUS, stage_costs

MODELS = {
    "PaliGemma 3B": ("paligemma/3b", (224, 448, 896)),
    "PaliGemma 2 3B": ("paligemma/2-3b", (224, 448, 896)),
    "PaliGemma 2 10B": ("paligemma/2-10b", (224, 448, 896)),
    "PaliGemma 2 28B": ("paligemma/2-28b", (224, 448, 896)),
    "PaLI-3 1B": ("pali3/1b", (224, 812)),
    "PaLI-3 5B": ("pali3/5b", (224, 812, 1064)),
}
WAYS = {"full": ["--peft", "none"], "LoRA": ["--peft", "lora"], "QLoRA": ["--peft", "qlora"]}
LENGTHS = ["--max_length", "64", "--suffix_max_length", "64", "--bf16", "true"]
MOST = 64  # beyond which the number does not matter


def table_lines() -> list[str]:
    """The lines of the table, as they stand in the guide."""
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
    """A line for each way to train that fits somewhere."""
    kept = None
    for way, options in WAYS.items():
        # 4-bit layers keep what layers in bfloat16 keep
        same = kept if way == "QLoRA" else None
        costs, _ = stage_costs(plan(["--model", preset, "--resolution", str(size), *options, *LENGTHS]), same)
        kept = costs.kept
        fitting = [(costs.fits(memory, False), costs.fits(memory, True)) for memory in GPUS]
        if any(with_it for _, with_it in fitting):
            yield f"| {name} | {size} | {way} | {' | '.join(map(cell, fitting))} |"


def cell(fitting: Sequence[int]) -> str:
    """Examples without activation checkpointing, and in parentheses with it."""
    without, with_it = (f"{MOST}+" if number >= MOST else str(number) for number in fitting)
    return f"{without} ({with_it})" if fitting[1] else "–"
