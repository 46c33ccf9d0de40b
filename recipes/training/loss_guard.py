"""Losses and gradients that must not reach the weights, and the batches that they came from."""

import json
import math
import statistics
from collections import deque
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from openpali.data.files.config import ConfigError
from openpali.recipes.run.arguments import RunArguments

GUARD_FILE = "loss_guard.json"
BAD_FOLDER = "bad_batches"
# micro-batches whose median is the usual loss, and how many are needed before a loss can be called a spike
WINDOW, ENOUGH = 101, 20


class RunStopped(ConfigError):
    """Ends a run that cannot continue; says why, what was saved, and how to proceed."""


class BadLoss(Exception):
    """A loss or gradient that must not reach the weights."""


class LossGuard:
    """Detects losses that are not finite, or far above the usual ones.

    Every process checks the mean over all processes, so that all decide alike.

    Attributes:
        recent: means over the processes, of the last good micro-batches.
    """

    def __init__(self, args: RunArguments):
        self.args, self.factor = args, args.loss_spike
        self.recent: deque[float] = deque(maxlen=WINDOW)

    def check(self, loss: torch.Tensor) -> None:
        """Check the loss of a micro-batch, and remember it.

        Raises:
            BadLoss: on every process, if the mean over all processes is not finite, or above `loss_spike` times the
                median of the last ones.
        """
        mean = self.mean(loss.detach().float())
        if not math.isfinite(mean):
            raise BadLoss(f"the loss is {mean}")
        usual = statistics.median(self.recent) if len(self.recent) >= ENOUGH else math.inf
        if self.factor and mean > self.factor * usual:
            raise BadLoss(f"the loss is {mean:.4g}, more than {self.factor:g} times the usual {usual:.4g}")
        if self.factor:
            self.recent.append(mean)

    def mean(self, loss: torch.Tensor) -> float:
        """Over the processes; not finite if it is so on any of them."""
        if self.args.world_size > 1:
            loss = loss.clone()
            torch.distributed.all_reduce(loss)
        return loss.item() / self.args.world_size

    def save(self, checkpoint: Path) -> None:
        """Save the recent losses, so that a resumed run decides as an uninterrupted one."""
        if self.factor:
            (checkpoint / GUARD_FILE).write_text(json.dumps(list(self.recent)))

    def load(self, checkpoint: Path) -> None:
        """Restore the recent losses; none where the checkpoint has no such file."""
        if (checkpoint / GUARD_FILE).exists():
            self.recent.extend(json.loads((checkpoint / GUARD_FILE).read_text()))


def save_bad_batch(inputs: dict[str, Any], names: list[str], step: int, reason: str, args: RunArguments) -> Path:
    """Write this process's batch into the run's folder for inspection.

    Args:
        inputs: of the model. Tensors go into a safetensors file, the rest into a JSON file beside it.
        names: of the records, as far as they are known.
        step: the optimizer step that it belongs to, from 1.
        reason: what was wrong.
        args: of the run.

    Returns:
        The JSON file.
    """
    folder = args.folder / BAD_FOLDER
    folder.mkdir(exist_ok=True)
    path = folder / f"step-{step}-process-{args.process_index}.json"
    tensors = {key: value.detach().cpu().contiguous() for key, value in inputs.items() if torch.is_tensor(value)}
    save_file(tensors, path.with_suffix(".safetensors"))
    rest = {key: str(value) for key, value in inputs.items() if not torch.is_tensor(value)}
    saved = {"step": step, "reason": reason, "records": names, "tensors": path.with_suffix(".safetensors").name}
    path.write_text(json.dumps(saved | {"inputs": rest}, indent=2) + "\n")
    return path


def count_bad_steps(folder: Path) -> int:
    """Steps of a run whose batches were saved as bad ones."""
    return len({path.name.split("-")[1] for path in (folder / BAD_FOLDER).glob("step-*.json")})
