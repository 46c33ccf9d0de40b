"""Progress of a run on the terminal, in `logs.jsonl` and in TensorBoard, and how Ctrl-C stops it."""

import contextlib
import json
import math
import os
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from openpali.data.packing import real_tokens
from openpali.eval.report.json_numbers import json_numbers
from openpali.recipes.run.run_folder import LOG_FILE

SHORT = {"learning_rate": "lr"}


class Throughput:
    """Training examples per second, without the time of evaluations and checkpoints."""

    def __init__(self, examples_per_step: int):
        self.examples_per_step = examples_per_step
        self.restart(0)

    def restart(self, step: int) -> None:
        """Start counting at `step`."""
        self.step, self.since = step, time.perf_counter()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Context whose time does not count."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.since += time.perf_counter() - begin

    def rate(self, step: int) -> float:
        """Examples per second since the last call."""
        seconds = max(time.perf_counter() - self.since, 1e-9)
        examples = (step - self.step) * self.examples_per_step
        self.restart(step)
        return examples / seconds


class PaddingShare:
    """Share of padding in the batches."""

    def __init__(self):
        self.tokens, self.positions = torch.tensor(0), 0

    def count(self, batch: dict[str, Any]) -> None:
        """Count a batch of PaliGemma; the sum stays on its device, so that nothing waits for it."""
        real = real_tokens(batch)
        self.tokens, self.positions = self.tokens.to(real.device) + real.sum(), self.positions + real.numel()

    def share(self) -> float:
        """In [0, 1), since the last call."""
        share = 1 - int(self.tokens) / self.positions
        self.tokens, self.positions = torch.tensor(0), 0
        return share


class LoggedValues(TrainerCallback, ABC):
    """A callback with values of its own, which join the Trainer's in `logs.jsonl`, TensorBoard and every tracker."""

    @abstractmethod
    def log_values(self, state: TrainerState) -> dict[str, float]:
        """The values since the last call; the Trainer calls it on every process whenever it logs its loss."""


class RunLog(TrainerCallback):
    """Progress on the terminal, `logs.jsonl` and TensorBoard events in the run's folder."""

    def __init__(self, folder: Path, tensorboard: bool):
        self.path = folder / LOG_FILE
        self.tensorboard = tensorboard
        self.writer: Any = None
        self.bar: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remove log rows from after the checkpoint that a resumed run starts from."""
        self.begin_step, self.begin_time = state.global_step, time.perf_counter()
        if not state.is_world_process_zero:
            return
        kept = [row for row in read_log(self.path) if row["step"] <= state.global_step]
        self.path.write_text("".join(json.dumps(row) + "\n" for row in kept))
        if self.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            events = str(self.path.parent / "tensorboard")
            self.writer = SummaryWriter(events, purge_step=state.global_step + 1)
        if sys.stderr.isatty():
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, dynamic_ncols=True, unit="step")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Log whenever a checkpoint is due, so that a resumed run begins with an empty loss average."""
        if self.bar is not None:
            self.bar.update(1)
        if control.should_save:
            control.should_log = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write a JSON line and TensorBoard scalars, and print a line or update the bar."""
        if not state.is_world_process_zero or not logs or "train_runtime" in logs:
            return
        row = {"step": state.global_step, **{SHORT.get(k, k): v for k, v in logs.items()}}
        with self.path.open("a") as file:
            file.write(json.dumps(json_numbers(row)) + "\n")
        if self.writer is not None:
            for key, value in logs.items():
                if math.isnan(value):
                    continue
                group, name = ("eval", key.removeprefix("eval_")) if key.startswith("eval_") else ("train", key)
                self.writer.add_scalar(f"{group}/{name}", value, state.global_step)
        self.show(row, state)

    def show(self, row: dict[str, float], state: TrainerState) -> None:
        """Show losses in the bar if there is one; print everything else as a line."""
        if self.bar is not None and "loss" in row:
            rate = f"{row['examples_per_second']:.0f}"
            self.bar.set_postfix({"loss": f"{row['loss']:.4f}", "examples/s": rate})
            return
        if "loss" in row:
            padding = f"  padding {row['padding']:.0%}" if "padding" in row else ""
            line = (
                f"step {state.global_step}/{state.max_steps}  loss {row['loss']:.4f}  lr {row['lr']:.2e}"
                f"  grad norm {row['grad_norm']:.2f}  {row['examples_per_second']:.0f} examples/s"
                f"{padding}  {self.time_left(state)} left"
            )
        else:
            scores = [f"{k[5:]} {format_score(v)}" for k, v in row.items() if k.startswith("eval_")]
            line = f"step {state.global_step}/{state.max_steps}  validation  " + "  ".join(scores)
        tqdm.write(line) if self.bar is not None else print(line, flush=True)

    def time_left(self, state: TrainerState) -> str:
        """Minutes and seconds, at the pace since the run (or its resumption) began."""
        done = max(1, state.global_step - self.begin_step)
        seconds = (time.perf_counter() - self.begin_time) / done * (state.max_steps - state.global_step)
        return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close files."""
        if self.bar is not None:
            self.bar.close()
        if self.writer is not None:
            self.writer.close()


def format_score(value: float) -> str:
    """A score with four digits."""
    return "undefined" if math.isnan(value) else f"{value:.4g}"


def read_log(path: Path) -> list[dict[str, Any]]:
    """Rows of `logs.jsonl`; a last line torn by a kill is left out."""
    rows = []
    for line in path.read_text("utf-8").splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return rows


SAME_SIGNAL = 3.0  # seconds


class StopRequest(TrainerCallback):
    """Ctrl-C and SIGTERM end the run after the current step, with a checkpoint; a second one ends it at once.

    Signals within `SAME_SIGNAL` are one: a scheduler or a terminal sends it to all processes, and torchrun, which gets
    it too, once more to its own.
    """

    def __init__(self):
        self.requested = False
        self.since = 0.0
        self.pid = os.getpid()
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.previous[number] = signal.signal(number, self.handle)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def handle(self, number: int, frame: object) -> None:
        """The signal handler."""
        if os.getpid() != self.pid:
            return
        if self.since:
            if time.monotonic() - self.since < SAME_SIGNAL:
                return
            raise KeyboardInterrupt
        self.requested, self.since = True, time.monotonic()
        print("\nStopping after this step, with a checkpoint; once more to stop at once.", flush=True)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Make the Trainer save and stop on every process once any has got the signal."""
        if args.world_size > 1:
            flag = torch.tensor(int(self.requested), device=args.device)
            torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
            self.requested = bool(flag)
        if self.requested and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = control.should_log = True
            control.should_evaluate = False
