"""A grid of transfers over learning rates, lengths and seeds, and the table of their scores.

Beyer et al. 2024 (PaliGemma, section 3.2.4) try learning rates of 3e-6, 1e-5 and 3e-5 and 1, 3, 10, 30 or 100 epochs.
"""

import gc
import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from openpali.data.files.config import ConfigError
from openpali.eval.report.json_numbers import json_numbers
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.run.run_folder import BEST_FILE, BEST_FOLDER

TABLE_FILE, ROWS_FILE = "sweep.md", "sweep.json"
FACTORS = (0.3, 1.0, 3.0)
EPOCHS = (1, 3, 10, 30, 100)


@dataclass
class SweepArguments:
    """Options for a grid of runs in place of one."""

    sweep: bool = field(default=False, metadata={"help": "train with each learning rate, length and seed of a grid"})
    sweep_learning_rates: list[float] = field(
        default_factory=list, metadata={"help": "0.3, 1 and 3 times the configured one if unset"}
    )
    sweep_epochs: list[float] = field(
        default_factory=list,
        metadata={"help": "the configured number and the next lower one of 1, 3, 10, 30, 100"},
    )
    sweep_seeds: list[int] = field(default_factory=list, metadata={"help": "the configured one if unset"})


@dataclass(frozen=True)
class Outcome:
    """A finished run.

    Attributes:
        learning_rate, epochs, seed: of the run; epochs is None where the run has a number of steps.
        metric: the metric that picks the best weights.
        validation: its best value; nan where it is undefined.
        test: its value on the test split.
        folder: of the run.
        loss: validation loss of the best weights; nan where it is not known.
    """

    learning_rate: float
    epochs: float | None
    seed: int
    metric: str
    validation: float
    test: float
    folder: str
    loss: float = math.nan


def sweep(
    args: SweepArguments,
    run: RunArguments,
    argv: Sequence[str],
    train: Callable[[list[str]], Any],
    check: Callable[[list[str]], Any],
) -> Outcome:
    """Train once for each point of the grid, and write the table into `output_dir`.

    A finished run is not repeated, so that the same command resumes after an interruption.

    Args:
        args: the grid.
        run: of the configuration.
        argv: the command line, to which each run adds its point.
        train: runs a command line.
        check: raises ConfigError where a finished run has another configuration or other data than a command line.

    Returns:
        The run with the best validation score; of several seeds, of the setting with the best mean.

    Raises:
        ConfigError: `eval_steps` is not set.
    """
    if not run.eval_steps:
        raise ConfigError("sweep compares scores while training: give eval_steps")
    points = grid(args, run)
    outcomes: list[Outcome] = []
    for number, (rate, epochs, seed) in enumerate(points, 1):
        folder = run.folder / "-".join(
            ["lr", f"{rate:g}", *(["epochs", f"{epochs:g}"] if epochs else []), f"seed-{seed}"]
        )
        run.say(f"Run {number} of {len(points)}: {folder}")
        point = [*argv, "--sweep", "false", "--learning_rate", repr(rate), "--seed", str(seed)]
        point += ["--output_dir", str(folder), *(["--num_train_epochs", repr(epochs)] if epochs else [])]
        if run.overwrite or not (folder / "metrics.json").exists():
            train(point)
            gc.collect()
            torch.cuda.empty_cache() if torch.cuda.is_available() else None
        else:
            check(point)
        outcomes.append(read_outcome(folder, rate, epochs, seed))
    best = best_outcome(outcomes)
    if run.process_index == 0:
        (run.folder / ROWS_FILE).write_text(
            json.dumps([json_numbers(asdict(one)) for one in outcomes], indent=2) + "\n"
        )
        (run.folder / TABLE_FILE).write_text(table(outcomes, best), "utf-8")
    run.say(table(outcomes, best))
    return best


def grid(args: SweepArguments, run: RunArguments) -> list[tuple[float, float | None, int]]:
    """Learning rate, epochs and seed of each run; no epochs where the number of steps is given."""
    rates = args.sweep_learning_rates or [float(f"{factor * run.learning_rate:.2g}") for factor in FACTORS]
    shorter = [float(epochs) for epochs in EPOCHS if epochs < run.num_train_epochs][-1:]
    lengths: list[float | None] = [*(args.sweep_epochs or [*shorter, float(run.num_train_epochs)])]
    if run.max_steps > 0:
        if args.sweep_epochs:
            raise ConfigError("sweep_epochs: max_steps gives the length of runs; leave one of them out")
        lengths = [None]
    return list(itertools.product(rates, lengths, args.sweep_seeds or [run.seed]))


def read_outcome(folder: Path, rate: float, epochs: float | None, seed: int) -> Outcome:
    """The outcome of a finished run, from its files."""
    best = json.loads((folder / BEST_FOLDER / BEST_FILE).read_text())
    metrics = json.loads((folder / "metrics.json").read_text())
    tests = [scores["metrics"].get(metric_key(best["metric"], name)) for name, scores in metrics.items()]
    known = [value for value in tests if value is not None]
    test = mean(known) if known else float("nan")
    numbers = [math.nan if best.get(key) is None else best[key] for key in ("value", "loss")]
    return Outcome(rate, epochs, seed, best["metric"], numbers[0], test, str(folder), numbers[1])


def metric_key(metric: str, name: str) -> str:
    """A metric without the name of its task, which a mixture puts before it."""
    return metric.removeprefix(f"{name}_")


def best_outcome(outcomes: Sequence[Outcome]) -> Outcome:
    """The best run of the setting with the best mean over seeds; ties go to the lower loss."""
    settings = {(one.learning_rate, one.epochs) for one in outcomes}
    groups = [[one for one in outcomes if (one.learning_rate, one.epochs) == setting] for setting in settings]
    chosen = max(groups, key=lambda group: (*rank(group), -group[0].learning_rate))
    return max(chosen, key=lambda one: rank([one]))


def rank(group: Sequence[Outcome]) -> tuple[float, float]:
    """Sort key: mean score over seeds (undefined is lowest), then negative mean validation loss."""
    score, loss = mean(one.validation for one in group), mean(one.loss for one in group)
    return -math.inf if math.isnan(score) else score, -math.inf if math.isnan(loss) else -loss


def table(outcomes: Sequence[Outcome], best: Outcome) -> str:
    """The runs as a Markdown table, the best setting first, and a line that names the best run."""
    seeds = len({one.seed for one in outcomes})
    metric = outcomes[0].metric
    lines = [f"| learning rate | epochs | {metric}, validation | {metric}, test | runs |", "|---|---|---|---|---|"]
    groups: dict[tuple[float, float | None], list[Outcome]] = {}
    for one in outcomes:
        groups.setdefault((one.learning_rate, one.epochs), []).append(one)
    order = sorted(groups.items(), key=lambda item: rank(item[1]), reverse=True)
    for (rate, epochs), group in order:
        shown = [format_mean([one.validation for one in group]), format_mean([one.test for one in group])]
        length = f"{epochs:g}" if epochs else "as configured"
        lines.append(f"| {rate:g} | {length} | {shown[0]} | {shown[1]} | {len(group)} |")
    more = f", over {seeds} seeds" if seeds > 1 else ""
    lines += ["", f"Best on validation{more}: learning rate {best.learning_rate:g}, {best.folder}", ""]
    return "\n".join(lines)


def format_mean(values: Sequence[float]) -> str:
    """The mean, and the standard deviation of several values."""
    if math.isnan(mean(values)):
        return "undefined"
    return f"{mean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")
