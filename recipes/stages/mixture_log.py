"""Counts and losses of the examples of each entry of a mixture, for `logs.jsonl` and a table at the end."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import TrainerControl, TrainerState, TrainingArguments

from openpali.data.collator import Collator
from openpali.data.example import Example
from openpali.data.mixture import MixtureRow
from openpali.data.tasks import Task
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.run.run_folder import LOG_FILE
from openpali.recipes.stages.task_bases import WrappedTask
from openpali.recipes.training.progress import LoggedValues, read_log

ENTRY = "entry"
SEEN, LOSS = "seen_", "loss_"


class EntryTask(WrappedTask):
    """A task whose examples carry their entry of the mixture, as `meta["entry"]`, and the text limits of that entry.

    Several entries may share a task.
    """

    def __init__(self, task: Task, entry: int, limits: dict[str, int] | None = None):
        self.task, self.meta = task, {ENTRY: entry} | (limits or {})

    def example(self, record: dict[str, Any], rng: random.Random) -> Example | None:
        """The task's example."""
        example = self.task.example(record, rng)
        return None if example is None else replace(example, meta=example.meta | self.meta)


class EntryCollator:
    """A collator whose batches hold `entry`, int[B], beside the model's inputs."""

    def __init__(self, collator: Collator):
        self.collator = collator

    def __call__(self, examples: Sequence[Example]) -> Any:
        """The collator's batch and `entry`."""
        batch = self.collator(examples)
        batch[ENTRY] = torch.tensor([example.meta[ENTRY] for example in examples])
        return batch


class MixtureLog(LoggedValues):
    """Logs examples and losses of each entry over all processes.

    Attributes:
        losses, recent: float[entries] and int64[entries], sum of losses and number of examples since the last log
            line, of this process.
        seen: int64[entries], number of examples of this process since the run began or resumed; on the main process
            with those in `logs.jsonl` from before.
    """

    def __init__(self, rows: Sequence[MixtureRow], run: RunArguments):
        self.rows, self.run = rows, run
        self.seen = torch.zeros(len(rows), dtype=torch.int64)
        self.recent, self.losses = torch.zeros_like(self.seen), torch.zeros(len(rows))

    def loss(self, model: nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        """The model's loss; counts the batch, on its device so that nothing waits for it."""
        entries = inputs[ENTRY]
        outputs = model(**{key: value for key, value in inputs.items() if key != ENTRY})
        counts = torch.bincount(entries, minlength=len(self.rows))
        sums = torch.bincount(entries, outputs.example_losses.float(), minlength=len(self.rows))
        self.seen, self.recent = self.seen.to(entries.device) + counts, self.recent.to(entries.device) + counts
        self.losses = self.losses.to(entries.device) + sums
        return outputs.loss

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Restore the counts at the checkpoint that a resumed run starts from."""
        if not state.is_world_process_zero:
            return
        path = self.run.folder / LOG_FILE
        before = [row for row in read_log(path) if row["step"] <= state.global_step and self.key(0) in row]
        if before:
            self.seen += torch.tensor([before[-1].get(self.key(i), 0) for i in range(len(self.rows))])

    def log_values(self, state: TrainerState) -> dict[str, float]:
        """`seen_ENTRY`, examples so far, and `loss_ENTRY`, the mean loss since the last call."""
        seen, recent, losses = self.summed(self.seen), self.summed(self.recent), self.summed(self.losses)
        self.recent, self.losses = torch.zeros_like(self.recent), torch.zeros_like(self.losses)
        values: dict[str, float] = {self.key(i): n for i, n in enumerate(seen)}
        return values | {LOSS + entry.name: s / n for entry, s, n in zip(self.rows, losses, recent) if n}

    def key(self, entry: int) -> str:
        """Key of an entry's count in `logs.jsonl`."""
        return SEEN + self.rows[entry].name

    def summed(self, values: torch.Tensor) -> list[Any]:
        """Sum over all processes."""
        values = values.clone()
        if self.run.world_size > 1:
            values = values.to(self.run.device)
            torch.distributed.all_reduce(values)
        return values.tolist()

    def report(self) -> None:
        """Print the expected and the actual number of examples of each entry."""
        for row, count in zip(self.rows, self.summed(self.seen)):
            self.run.say(f"{row.name:<20} {row.expected_examples:>14,.0f} examples expected {count:>14,} seen")


def log_mixture(rows: Sequence[MixtureRow], run: RunArguments) -> None:
    """Print the entries of the mixture with their weights."""
    run.say(f"{'entry':<20} {'weight':>7} {'examples':>14}  task on source")
    for row in rows:
        run.say(f"{row.name:<20} {row.weight:>7.1%} {row.expected_examples:>14,.0f}  {row.task} on {row.source}")
