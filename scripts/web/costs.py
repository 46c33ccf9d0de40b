"""What a run of `openpali web` costs before it is started: CPU and GPU hours, bytes and wall time of each step.

Seconds of CPU steps are those of `rates.yaml`, which `openpali.scripts.web.rates` measures on one core. Those of
models are computed (`model_costs.py`). A pass reads every raw shard, but decodes what earlier steps have kept alone.
"""

import functools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from openpali.modeling.user_errors import CheckpointError, UserError
from openpali.scripts.web.labelling.seq2seq import AT_ONCE
from openpali.scripts.web.model_costs import CAPTION_TOKENS, GPUS, LAYER_SECONDS, core_seconds, gpu_seconds, model_uses
from openpali.scripts.web.running.plan import StepPlan, passes

RATES = Path(__file__).with_name("rates.yaml")
SAMPLE_BYTES = 2500
"""Of a sample in a tar shard beside its image: two headers, padding, and the JSON of its record."""
ROW_BYTES = 100
"""Of a row in a step's table where none has been measured."""
BAND_BYTES = 40
"""Of a row of `duplicates` in the group-by: five numbers. An image has `distance` + 1 rows."""

WHOLE_SET = {"duplicates": {"seconds": 7.2e-5, "bytes": 15}}
"""Of steps that see the whole set, which no rate of a shard tells: `benchmarks/near_copies.py`, ten million images."""


@dataclass
class PlanArguments:
    """Options of `openpali web --plan`."""

    plan: bool = field(default=False, metadata={"help": "print what the run would cost, and end"})
    pairs: float = field(default=0, metadata={"help": "number of pairs in the raw shards, as in 1e9"})
    pair_kilobytes: float = field(default=25.0, metadata={"help": "of a pair in the raw shards, mostly its image"})
    nodes: int = field(default=1, metadata={"help": "machines of the cluster"})
    node_cpus: int = field(default=32, metadata={"help": "cores of each"})
    node_gpus: int = field(default=0, metadata={"help": "GPUs of each"})
    gpu: str = field(default="H100", metadata={"help": f"kind of GPU: {', '.join(GPUS)}"})
    node_gigabytes: float = field(default=1.0, metadata={"help": "that each machine reads or writes in a second"})
    counts: str = field(default="", metadata={"help": "counts.json of a trial run, for the shares that steps keep"})

    def check(self) -> None:
        """Raise UserError for options that cannot be."""
        if self.pairs < 1:
            raise UserError("--plan wants --pairs, the number of pairs in the raw shards, as in --pairs 1e9")
        if min(self.nodes, self.node_cpus) < 1 or self.node_gpus < 0:
            raise UserError("nodes and node_cpus are at least 1, node_gpus at least 0")
        if min(self.node_gigabytes, self.pair_kilobytes) <= 0:
            raise UserError("node_gigabytes and pair_kilobytes are above 0")
        if self.gpu not in GPUS:
            raise UserError(f"gpu is one of {', '.join(GPUS)}, not {self.gpu!r}")


@dataclass(frozen=True)
class Row:
    """Costs of a step, or of reading the shards in a pass; seconds and bytes of all pairs together.

    Attributes:
        name: of the step.
        pairs: that reach it.
        cpu, gpu: seconds of cores and GPUs.
        written, read, shuffled: bytes.
        wall: seconds of the whole cluster.
        source: of the seconds: measured, computed, or unknown.
    """

    name: str
    pairs: float
    cpu: float = 0.0
    gpu: float = 0.0
    written: float = 0.0
    read: float = 0.0
    shuffled: float = 0.0
    wall: float = 0.0
    source: str = "measured"

    def cells(self) -> list[str]:
        """As the columns of the printed table."""
        hours = [f"{value:,.0f}" if value >= 100 else f"{value:.2g}" for value in (self.cpu / 3600, self.gpu / 3600)]
        sizes = [human(value) for value in (self.written, self.read, self.shuffled)]
        wall = f"{self.wall / 3600:.2g}" if self.wall < 36e4 else f"{self.wall / 3600:,.0f}"
        return [self.name, f"{self.pairs:,.0f}", *hours, *sizes, wall, self.source]


_SUMMED = ("cpu", "gpu", "written", "read", "shuffled", "wall")
HEADER = ["step", "pairs", "CPU h", "GPU h", "written", "read", "shuffled", "wall h", "seconds are"]


def plan_lines(steps: Sequence[StepPlan], args: PlanArguments) -> list[str]:
    """The costs of a configuration's steps as a table, with its assumptions below.

    Raises:
        UserError: an option cannot be, or a step wants GPUs that the machines do not have.
    """
    args.check()
    rates, notes = read_rates(), list[str]()
    rows = list(plan_rows(steps, args, rates, notes))
    sums = {key: sum(getattr(row, key) for row in rows) for key in _SUMMED}
    rows.append(Row("total", args.pairs, **sums, source=""))
    table = [HEADER, *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(_aligned(cells, widths)).rstrip() for cells in table]
    machines = f"{args.nodes} machine{'s' * (args.nodes > 1)} of {args.node_cpus} cores"
    machines += f" and {args.node_gpus} {args.gpu}" if args.node_gpus else ""
    return [
        f"{args.pairs:,.0f} pairs of {args.pair_kilobytes:g} kB on {machines}",
        *lines,
        *_notes(args, rates),
        *notes,
    ]


def plan_rows(
    steps: Sequence[StepPlan], args: PlanArguments, rates: dict[str, Any], notes: list[str]
) -> Iterator[Row]:
    """A row for each pass over the shards and for each step; what is not known is added to `notes`."""
    keeps = kept_shares(steps, args.counts)
    pairs = args.pairs
    raw = args.pairs * args.pair_kilobytes * 1e3
    for own in passes(steps):
        if not own[0].is_whole:
            yield timed(Row("reading", pairs, cpu=pairs * rates["read"], read=raw), args, own[0])
        for plan in own:
            yield timed(step_row(plan, pairs, args, rates, notes), args, plan)
            pairs *= keeps[plan.folder]
    size = pairs * (args.pair_kilobytes * 1e3 + SAMPLE_BYTES)
    yield timed(Row("writing shards", pairs, cpu=args.pairs * rates["write"], written=size, read=raw), args)


def step_row(plan: StepPlan, pairs: float, args: PlanArguments, rates: dict[str, Any], notes: list[str]) -> Row:
    """The costs of one step."""
    rate = rates["steps"].get(plan.name, {})
    written = pairs * rate.get("bytes", ROW_BYTES)
    shuffled = pairs * (plan.step.distance + 1) * BAND_BYTES if plan.name == "duplicates" else 0.0
    try:
        uses = model_uses(plan.name, plan.step)
        if not uses and "seconds" not in rate:
            raise ValueError("its seconds have not been measured")
        on_gpu = bool(plan.gpus and uses)
        gpu = sum(gpu_seconds(use, GPUS[args.gpu]) for use in uses) if on_gpu else 0.0
        cpu = 0.0 if on_gpu else sum(core_seconds(use, rates["core_flops"]) for use in uses)
        cpu += sum(rates["prepare"] for use in uses if use.kind in ("pair", "image"))
    except (ValueError, CheckpointError) as error:
        notes.append(f"{plan.folder} is not in the sums: {error}.")
        return Row(plan.folder, pairs, written=written, shuffled=shuffled, source="unknown")
    cpu = cpu if uses else rate["seconds"]
    source = "computed" if uses else "measured"
    return Row(plan.folder, pairs, pairs * cpu, pairs * gpu, written, 0.0, shuffled, source=source)


def timed(row: Row, args: PlanArguments, plan: StepPlan | None = None) -> Row:
    """The row with its wall time, where each actor computes on its cores and then on its GPU.

    Raises:
        UserError: it wants GPUs that the machines do not have.
    """
    cpus, gpus = (plan.cpus, plan.gpus) if plan else (1.0, 0.0)
    if gpus and not args.node_gpus:
        raise UserError(f"{row.name} has gpus in its configuration, and the machines have none: give --node_gpus")
    room = [args.nodes * has / needs for has, needs in ((args.node_cpus, cpus), (args.node_gpus, gpus)) if needs]
    actors = min([*room, plan.actors] if plan and plan.actors else room or [args.nodes * args.node_cpus])
    # images are prepared for a GPU by one thread
    at_once = actors if gpus else actors * max(cpus, 1)
    moved = (row.read + row.written + row.shuffled) / (args.nodes * args.node_gigabytes * 1e9)
    on_gpus = row.gpu / (args.nodes * args.node_gpus) if row.gpu else 0.0
    return replace(row, wall=max((row.cpu + row.gpu) / at_once, on_gpus, moved))


def kept_shares(steps: Sequence[StepPlan], counts: str) -> dict[str, float]:
    """The share that each step keeps: of a trial run, or of `best_share`, or all.

    Raises:
        UserError: the counts are not those of a run.
    """
    shares = {plan.folder: plan.step.share if plan.name == "best_share" else 1.0 for plan in steps}
    if not counts:
        return shares
    try:
        for row in json.loads(Path(counts).read_text("utf-8"))["steps"]:
            if row["step"] in shares and row["reached"]:
                shares[row["step"]] = 1 - sum(row["dropped"].values()) / row["reached"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{counts} is no counts.json of a run ({error}): give that of its output folder") from error
    return shares


@functools.cache
def read_rates() -> dict[str, Any]:
    """The measured rates that come with the package."""
    rates = yaml.safe_load(RATES.read_text("utf-8"))
    return rates | {"steps": WHOLE_SET | rates["steps"]}


def human(size: float) -> str:
    """Bytes in the largest unit of which there is one."""
    units = ["B", "kB", "MB", "GB", "TB", "PB"]
    place = next((place for place, _ in enumerate(units) if size < 1000 ** (place + 1)), len(units) - 1)
    return f"{size / 1000**place:.3g} {units[place]}" if size else "-"


def _aligned(cells: Iterable[str], widths: list[int]) -> list[str]:
    """The first and the last column to the left, numbers to the right."""
    last = len(widths) - 1
    return [
        cell.ljust(width) if at in (0, last) else cell.rjust(width)
        for at, (cell, width) in enumerate(zip(cells, widths))
    ]


def _notes(args: PlanArguments, rates: dict[str, Any]) -> list[str]:
    lines = [f"measured: on one core of {rates['machine']}, images of {rates['side']} px, by {rates['command']}"]
    lines.append(
        f"computed: FLOPs at 40 % of the peak of one {args.gpu}, or at a core's rate without gpus; captions are taken"
        f" to have {CAPTION_TOKENS} tokens, and a token written by a batch of {AT_ONCE} to need"
        f" {LAYER_SECONDS * 1000:g} ms for each decoder layer"
    )
    if not args.counts:
        lines.append(
            "kept: every step but best_share is taken to keep all; --counts of a trial run tells what they keep"
        )
    return lines
