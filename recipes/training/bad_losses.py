"""What ends a run badly, and what is left when it does: losses that make no sense, and full disks."""

import errno
import json
import math
import shutil
import statistics
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.utils.data import Dataset

from openpali.data.example import Example
from openpali.data.files.config import ConfigError
from openpali.data.images.open_image import BadImage
from openpali.data.records import BadRecord
from openpali.recipes.run.arguments import RunArguments

RECORDS, FAILURE = "record_names", "failure"
OF_THE_DATA = (BadRecord, BadImage)
GUARD_FILE = "loss_guard.json"
BAD_FOLDER = "bad_batches"
# micro-batches whose median says what a usual loss is, and how many there must be before one is called unusual
WINDOW, ENOUGH = 101, 20
# bytes
NEARLY_NOTHING = 1 << 20


class RunStopped(ConfigError):
    """A run that cannot go on; says why, what is kept, and what to do."""


class BadLoss(Exception):
    """A loss or gradient that must not reach the weights."""


class Failure:
    """What went wrong with an item in a loader worker, where the data and not the code is to blame.

    An exception itself would end the worker, and reach a person as another one with the traceback in its text.
    """

    def __init__(self, error: Exception):
        self.error = error


class SafeDataset(Dataset):
    """A dataset that gives a `Failure` where it would raise; item by item otherwise the same."""

    def __init__(self, data: Any):
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: Any) -> Any:
        try:
            return self.data[index]
        except OF_THE_DATA as error:
            return Failure(error)


class SafeCollator:
    """A collator that gives the first `Failure` of its items, or its own, in place of a batch."""

    def __init__(self, collator: Callable[[list], Any]):
        self.collator = collator

    def __call__(self, items: Any) -> Any:
        """The collator's batch."""
        for item in items if isinstance(items, list) else [items]:
            if isinstance(item, Failure):
                return item
        try:
            return self.collator(items)
        except OF_THE_DATA as error:
            return Failure(error)


def raised(batches: Iterable[Any]) -> Iterator[Any]:
    """Batches of a loader of such data, and what went wrong with them as it would have been raised."""
    for batch in batches:
        if isinstance(batch, Failure):
            raise batch.error
        yield batch


class NamedCollator(SafeCollator):
    """A collator whose batches also hold the names of their records, which the trainer takes out again."""

    def __call__(self, items: Sequence[Any]) -> Any:
        """The collator's batch; with names where the items are examples."""
        batch = super().__call__(list(items))
        if isinstance(batch, Failure):
            return {FAILURE: batch.error}
        if all(isinstance(item, Example) for item in items):
            batch[RECORDS] = [item.id for item in items]
        return batch


class LossGuard:
    """Tells losses that are no numbers, or that are far above the usual ones.

    Every process sees the same mean over all of them, so that all decide alike.

    Attributes:
        recent: means over the processes, of the last micro-batches that were good.
    """

    def __init__(self, args: RunArguments):
        self.args, self.factor = args, args.loss_spike
        self.recent: deque[float] = deque(maxlen=WINDOW)

    def check(self, loss: torch.Tensor) -> None:
        """Remember the loss of a micro-batch.

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
        """Keep the usual losses, so that a resumed run decides as an uninterrupted one."""
        if self.factor:
            (checkpoint / GUARD_FILE).write_text(json.dumps(list(self.recent)))

    def load(self, checkpoint: Path) -> None:
        """Go on from a checkpoint; from nothing where it has no such file."""
        if (checkpoint / GUARD_FILE).exists():
            self.recent.extend(json.loads((checkpoint / GUARD_FILE).read_text()))


def keep_bad_batch(inputs: dict[str, Any], names: list[str], step: int, reason: str, args: RunArguments) -> Path:
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
    kept = {"step": step, "reason": reason, "records": names, "tensors": path.with_suffix(".safetensors").name}
    path.write_text(json.dumps(kept | {"inputs": rest}, indent=2) + "\n")
    return path


def bad_steps(folder: Path) -> int:
    """Steps of a run whose batch was kept as a bad one."""
    return len({path.name.split("-")[1] for path in (folder / BAD_FOLDER).glob("step-*.json")})


def disk_is_full(error: BaseException, folder: Path) -> bool:
    """Whether a writer into a folder failed for lack of space; torch and safetensors have errors of their own."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    words = ("No space left", "os error 28", "Disk quota exceeded", "os error 122", "PytorchStreamWriter failed")
    if any(word in str(error) for word in words):
        return True
    # what torch says of a file that could not grow tells nothing of the reason
    return "inline_container" in str(error) and shutil.disk_usage(folder).free < NEARLY_NOTHING
