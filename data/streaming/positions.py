"""The position of a loader worker in its share of the data: tar shards, or a map-style dataset."""

import random
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol, cast

import torch

from openpali.data.example import Example
from openpali.data.files.tar_shards import START, Place, Sample
from openpali.data.mixture import TaskDataset
from openpali.data.sources.webdataset import WebDataset


class Reader(NamedTuple):
    """A loader worker: its index among the workers of all processes, and their number."""

    index: int
    count: int


class Cursor(Protocol):
    """An iterator of examples whose position can be saved and restored."""

    def __next__(self) -> Example:
        """The next example."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The position, as JSON values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a position."""
        ...


class ShardCursor:
    """Undecoded samples of a worker's share of the shards, epoch after epoch, each with its epoch.

    Every epoch distributes the shards anew; with fewer shards than workers, several workers share one and take every
    n-th sample. A worker reads `open_shards` shards in turn into a block of `shuffle` samples, and yields the block in
    random order. Workers end an epoch at different times, but together they read every sample once.
    """

    def __init__(self, source: WebDataset, seed: int, reader: Reader) -> None:
        """Start at the first sample."""
        self.source, self.seed, self.reader = source, seed, reader
        self.epoch, self.blocks, self.given = 0, 0, 0
        self.waiting = 0  # the first unit of this epoch that is not open yet
        self.places: dict[int, Place] = {}  # of open units, where they continue
        self.start: dict[str, Any] = {}
        self.block: list[Sample | None] = []
        self._begin()

    def _begin(self) -> None:
        self.units = self._units()
        self.open = {unit: self._samples(unit, place) for unit, place in self.places.items()}
        self.start = self._snapshot()

    def _units(self) -> list[tuple[int, int, int]]:
        """This worker's share of the epoch: shard, part of it, number of parts."""
        shards, readers = len(self.source.urls), self.reader.count
        parts = -(-readers // shards)
        units = [(shard, part, parts) for shard in range(shards) for part in range(parts)]
        random.Random(f"{self.seed}-shards-{self.epoch}").shuffle(units)
        return units[self.reader.index :: readers]

    def _samples(self, unit: int, place: Place) -> Iterator[Sample]:
        shard, part, parts = self.units[unit]
        return self.source.samples(shard, place, part, parts)

    def _snapshot(self) -> dict[str, Any]:
        places = [[unit, *place] for unit, place in self.places.items()]
        return {"epoch": self.epoch, "block": self.blocks, "next": self.waiting, "open": places}

    @property
    def opened(self) -> int:
        """Number of shards that this worker has opened, at most that of all shards."""
        return min(len(self.source.urls), self.epoch * len(self.units) + self.waiting)

    def next(self) -> tuple[int, Sample] | None:
        """The epoch and the next sample; None at the end of this worker's epoch."""
        if self.given == len(self.block):
            self._fill()
            if not self.block:
                self.epoch, self.waiting, self.places = self.epoch + 1, 0, {}
                self._begin()
                return None
        sample = cast(Sample, self.block[self.given])
        # free what was yielded: a block of images is large
        self.block[self.given] = None
        self.given += 1
        return self.epoch, sample

    def _fill(self) -> None:
        """Read the next block from the open shards in turn, and shuffle it."""
        self.start, self.given = self._snapshot(), 0
        block: list[Sample | None] = []
        while len(block) < self.source.shuffle and (self.open or self.waiting < len(self.units)):
            while len(self.open) < self.source.open_shards and self.waiting < len(self.units):
                self.places[self.waiting] = START
                self.open[self.waiting] = self._samples(self.waiting, START)
                self.waiting += 1
            for unit in list(self.open)[: self.source.shuffle - len(block)]:
                sample = next(self.open[unit], None)
                if sample is None:
                    del self.open[unit], self.places[unit]
                    continue
                self.places[unit] = sample.after
                block.append(sample)
        random.Random(f"{self.seed}-block-{self.reader.index}-{self.epoch}-{self.blocks}").shuffle(block)
        self.block, self.blocks = block, self.blocks + 1

    def state_dict(self) -> dict[str, Any]:
        """The position at the start of the current block, and how much of it was yielded."""
        return self.start | {"given": self.given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Read the block of that position again, and resume inside it."""
        self.epoch, self.blocks, self.waiting = state["epoch"], state["block"], state["next"]
        self.places = {unit: Place(offset, number) for unit, offset, number in state["open"]}
        self.block, self.given = [], 0
        self._begin()
        if state["given"]:
            self._fill()
            self.given = state["given"]
            self.block[: self.given] = [None] * self.given


class IndexCursor:
    """A worker's share of a map-style dataset: its places in a sequence of permutations, one for each epoch."""

    def __init__(self, dataset: TaskDataset, seed: int, reader: Reader) -> None:
        """Start at the first example."""
        self.dataset, self.seed, self.reader = dataset, seed, reader
        self.given = 0
        self._order: tuple[int, list[int]] = (-1, [])

    def __next__(self) -> Example:
        place = self.reader.index + self.given * self.reader.count
        epoch, position = divmod(place, len(self.dataset))
        if self._order[0] != epoch:
            # a function of the epoch alone, so that all workers have the same order
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self._order = epoch, torch.randperm(len(self.dataset), generator=generator).tolist()
        self.given += 1
        return self.dataset[epoch, self._order[1][position]]

    def state_dict(self) -> dict[str, Any]:
        """The number of yielded examples."""
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a position."""
        self.given = state["given"]
