"""Order of the training examples, a pure function of seed and position in the run, and options of loaders."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import Sampler

from openpali.data.images.worker_memory import keep_freed_memory
from openpali.recipes.run.arguments import RunArguments


class RunSampler(Sampler[int | tuple[int, int]]):
    """Epoch after epoch of fresh permutations as one sequence, cut at the length of the run.

    A run is a single pass over this sequence: batches are always full, even of a dataset smaller than a
    batch, and a run resumes at batch n by skipping n batches, whatever the epoch.

    Args:
        num_items: of the dataset.
        num_samples: of the run.
        seed: of the order.
        with_epochs: yield (epoch, item) in place of the item, for data that is augmented anew in each epoch.
    """

    def __init__(self, num_items: int, num_samples: int, seed: int, with_epochs: bool = False):
        self.num_items, self.with_epochs = num_items, with_epochs
        self.num_samples = num_samples
        self.seed = seed

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[int | tuple[int, int]]:
        for epoch in range(-(-self.num_samples // self.num_items)):
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            left = self.num_samples - epoch * self.num_items
            order = torch.randperm(self.num_items, generator=generator)[:left].tolist()
            yield from ((epoch, item) for item in order) if self.with_epochs else order


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
    """Initialise a loader worker: ignore Ctrl-C, which the main process handles, keep freed memory for the next
    images, and lower its priority on CPUs.

    Where the model trains on the same cores, a thread of a matrix product that waits for its core delays all others.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    keep_freed_memory()
    if not torch.accelerator.is_available():
        os.nice(15)
