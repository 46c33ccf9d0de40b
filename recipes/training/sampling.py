"""Order of the training examples, a pure function of seed and position in the run, their steps, and loaders' options.

A collator with `by_step = True` is given examples that know the optimizer step that they are for, in `meta[STEP]`, the
same on all processes and after a resumption.
"""

import dataclasses
import os
import signal
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.utils.data import Dataset, Sampler

from openpali.data.images.worker_memory import keep_freed_memory
from openpali.recipes.run.arguments import RunArguments

STEP = "optimizer_step"
LAST_STEP = 300  # seconds from SIGTERM that a step may take, with its checkpoint; a worker has ended then


class Place(NamedTuple):
    """The item of a dataset, as the dataset takes it, and the 0-based optimizer step that it is for."""

    step: int
    item: int | tuple[int, int]


class RunSampler(Sampler[int | tuple[int, int] | Place]):
    """Epoch after epoch of fresh permutations as one sequence, cut at the length of the run.

    A run is a single pass over this sequence: batches are always full, even of a dataset smaller than a
    batch, and a run resumes at batch n by skipping n batches, whatever the epoch.

    Args:
        num_items: of the dataset.
        num_samples: of the run.
        seed: of the order.
        with_epochs: yield (epoch, item) in place of the item, for data that is augmented anew in each epoch.
        step_size: examples of an optimizer step on all processes; yield `Place` in place of all that where given.
    """

    def __init__(
        self, num_items: int, num_samples: int, seed: int, with_epochs: bool = False, step_size: int | None = None
    ):
        self.num_items, self.with_epochs = num_items, with_epochs
        self.num_samples, self.step_size = num_samples, step_size
        self.seed = seed

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[int | tuple[int, int] | Place]:
        if self.step_size is None:
            yield from self._items()
        else:
            yield from (Place(position // self.step_size, item) for position, item in enumerate(self._items()))

    def _items(self) -> Iterator[int | tuple[int, int]]:
        for epoch in range(-(-self.num_samples // self.num_items)):
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            left = self.num_samples - epoch * self.num_items
            order = torch.randperm(self.num_items, generator=generator)[:left].tolist()
            yield from ((epoch, item) for item in order) if self.with_epochs else order


class SteppedDataset(Dataset):
    """A dataset of examples, indexed by `Place`, whose examples know their step."""

    def __init__(self, data: Any):
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, place: Place) -> Any:
        return with_step(self.data[place.item], place.step)


def with_step(example: Any, step: int) -> Any:
    """The example, for a step."""
    return dataclasses.replace(example, meta=example.meta | {STEP: step})


def loader_options(args: RunArguments) -> dict[str, Any]:
    """Options of a loader of training batches."""
    return {
        "batch_size": args.per_device_train_batch_size,
        "num_workers": args.dataloader_num_workers,
        "pin_memory": args.dataloader_pin_memory,
        "prefetch_factor": args.dataloader_prefetch_factor,
        "worker_init_fn": quiet_worker,
        "drop_last": True,
    }


def quiet_worker(worker_id: int) -> None:
    """Initialise a loader worker: leave Ctrl-C and SIGTERM to the main process, keep freed memory for the next images,
    and lower its priority on CPUs.

    A scheduler, `timeout` and torchrun send SIGTERM to all processes of a run. The main process finishes its step, and
    needs the batch of this worker for that. Where the model trains on the same cores, a thread of a matrix product
    that waits for its core delays all others.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_later)
    keep_freed_memory()
    if not torch.accelerator.is_available():
        os.nice(15)


def _end_later(number: int, frame: object) -> None:
    """End after the time of the last step, for a worker that would hang."""
    signal.alarm(LAST_STEP)
