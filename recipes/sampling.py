"""Order of the training examples: a pure function of the seed and the position in the run."""

import signal
from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


class RunSampler(Sampler[int]):
    """Epoch after epoch of fresh permutations as one sequence, cut at the length of the run.

    A run is a single pass over this sequence, so batches are always full, even of a data set smaller than a
    batch, and resuming at batch n is skipping n batches: there is no epoch border to get wrong.
    """

    def __init__(self, num_items: int, num_samples: int, seed: int):
        self.num_items = num_items
        self.num_samples = num_samples
        self.seed = seed

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        for epoch in range(-(-self.num_samples // self.num_items)):
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            left = self.num_samples - epoch * self.num_items
            yield from torch.randperm(self.num_items, generator=generator)[:left].tolist()


def quiet_worker(worker_id: int) -> None:
    """Ctrl-C reaches every process of the terminal: let the main one decide, which saves a checkpoint first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
