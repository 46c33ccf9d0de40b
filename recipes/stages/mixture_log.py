"""How many examples of each line of a mixture were trained on, and at what loss."""

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from openpali.data.collator import Collator
from openpali.data.example import Example
from openpali.data.mixture import MixtureRow
from openpali.data.tasks import Task
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.run.run_folder import LOG_FILE
from openpali.recipes.training.progress import read_log

LINE = "line"
SEEN, LOSS = "seen_", "loss_"


class NumberedTask:
    """A task whose examples tell their line of the mixture, as `meta["line"]`, and the text limits of that line.

    Several lines may share a task.
    """

    def __init__(self, task: Task, line: int, limits: dict[str, int] | None = None):
        self.task, self.told = task, {LINE: line} | (limits or {})
        self.name, self.metric, self.metric_key = task.name, task.metric, task.metric_key
        self.max_new_tokens = task.max_new_tokens

    def example(self, record: dict[str, Any], rng: random.Random) -> Example | None:
        """The task's example."""
        example = self.task.example(record, rng)
        return None if example is None else replace(example, meta=example.meta | self.told)

    def prediction(self, text: str, example: Example) -> Any:
        """The task's."""
        return self.task.prediction(text, example)

    def reference(self, example: Example) -> Any:
        """The task's."""
        return self.task.reference(example)


class NumberedCollator:
    """A collator whose batches hold `line`, int[B], beside the model's inputs."""

    def __init__(self, collator: Collator):
        self.collator = collator

    def __call__(self, examples: Sequence[Example]) -> Any:
        """The collator's batch and `line`."""
        batch = self.collator(examples)
        batch[LINE] = torch.tensor([example.meta[LINE] for example in examples])
        return batch


class MixtureLog(TrainerCallback):
    """Examples and losses of each line over all processes, for `logs.jsonl` and a table at the end.

    Attributes:
        losses, recent: float[lines] and int64[lines], sum of the examples' losses and number of examples since the
            last log line, of this process.
        seen: int64[lines], of this process since the run began or went on; on the main process with what
            `logs.jsonl` says of the time before.
    """

    def __init__(self, rows: Sequence[MixtureRow], run: RunArguments):
        self.rows, self.run = rows, run
        self.seen = torch.zeros(len(rows), dtype=torch.int64)
        self.recent, self.losses = torch.zeros_like(self.seen), torch.zeros(len(rows))

    def loss(self, model: nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        """The model's loss; counts the batch, on its device so that nothing waits for it."""
        lines = inputs[LINE]
        outputs = model(**{key: value for key, value in inputs.items() if key != LINE})
        counts = torch.bincount(lines, minlength=len(self.rows))
        sums = torch.bincount(lines, outputs.example_losses.float(), minlength=len(self.rows))
        self.seen, self.recent = self.seen.to(lines.device) + counts, self.recent.to(lines.device) + counts
        self.losses = self.losses.to(lines.device) + sums
        return outputs.loss

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take up the counts of the checkpoint that a resumed run starts from."""
        if not state.is_world_process_zero:
            return
        path = self.run.folder / LOG_FILE
        before = [row for row in read_log(path) if row["step"] <= state.global_step and self.key(0) in row]
        if before:
            self.seen += torch.tensor([before[-1].get(self.key(i), 0) for i in range(len(self.rows))])

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """One JSON line whenever the Trainer logs its loss, and with every checkpoint."""
        if not control.should_log:
            return
        seen, recent, losses = self.summed(self.seen), self.summed(self.recent), self.summed(self.losses)
        self.recent, self.losses = torch.zeros_like(self.recent), torch.zeros_like(self.losses)
        if state.is_world_process_zero:
            row: dict[str, Any] = {"step": state.global_step} | {self.key(i): n for i, n in enumerate(seen)}
            row |= {LOSS + line.name: s / n for line, s, n in zip(self.rows, losses, recent) if n}
            with (self.run.folder / LOG_FILE).open("a") as file:
                file.write(json.dumps(row) + "\n")

    def key(self, line: int) -> str:
        """Of a line's count in `logs.jsonl`."""
        return SEEN + self.rows[line].name

    def summed(self, values: torch.Tensor) -> list[Any]:
        """Over all processes."""
        values = values.clone()
        if self.run.world_size > 1:
            values = values.to(self.run.device)
            torch.distributed.all_reduce(values)
        return values.tolist()

    def tell(self) -> None:
        """The table: what was expected of each line, and what it was."""
        for row, count in zip(self.rows, self.summed(self.seen)):
            self.run.say(f"{row.name:<20} {row.expected_examples:>14,.0f} examples expected {count:>14,} seen")


def log_mixture(rows: Sequence[MixtureRow], run: RunArguments) -> None:
    """The table at the start."""
    run.say(f"{'line':<20} {'weight':>7} {'examples':>14}  task on source")
    for row in rows:
        run.say(f"{row.name:<20} {row.weight:>7.1%} {row.expected_examples:>14,.0f}  {row.task} on {row.source}")
