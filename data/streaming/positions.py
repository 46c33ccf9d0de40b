"""Where a loader worker is in its share of the data: in tar shards, or in data that is read by number."""

import random
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol, cast

import torch

from openpali.data.example import Example
from openpali.data.files.tar_shards import START, Place, Sample
from openpali.data.mixture import TaskDataset
from openpali.data.sources.webdataset import WebDataset


class Reader(NamedTuple):
    """One of all loader workers of all processes, and how many there are."""

    index: int
    count: int


class Cursor(Protocol):
    """An endless row of examples with a position that can be saved."""

    def __next__(self) -> Example:
        """The next example."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """JSON values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        ...


class ShardCursor:
    """Undecoded samples of a worker's share of the shards, pass after pass, each with its pass.

    Every pass deals the shards out anew; with fewer shards than workers several workers share one, each taking every
    so-and-so-many-th sample. A worker reads `open_shards` of them in turn into a block of `shuffle` samples, and gives
    the block in random order. Passes of different workers end at different times, but all of them together are every
    sample once.
    """

    def __init__(self, source: WebDataset, seed: int, reader: Reader) -> None:
        """Begin at the first sample."""
        self.source, self.seed, self.reader = source, seed, reader
        self.epoch, self.blocks, self.given = 0, 0, 0
        self.waiting = 0  # of the units of this pass, the first that is not open yet
        self.places: dict[int, Place] = {}  # of open units, where they go on
        self.start: dict[str, Any] = {}
        self.block: list[Sample | None] = []
        self._begin()

    def _begin(self) -> None:
        self.units = self._units()
        self.open = {unit: self._samples(unit, place) for unit, place in self.places.items()}
        self.start = self._snapshot()

    def _units(self) -> list[tuple[int, int, int]]:
        """This worker's share of the pass: shard, part of it, number of parts."""
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
        """Shards that this worker has opened, each counted once as far as that is known."""
        return min(len(self.source.urls), self.epoch * len(self.units) + self.waiting)

    def next(self) -> tuple[int, Sample] | None:
        """The pass and the next sample; None where a pass of this worker ends."""
        if self.given == len(self.block):
            self._fill()
            if not self.block:
                self.epoch, self.waiting, self.places = self.epoch + 1, 0, {}
                self._begin()
                return None
        sample = cast(Sample, self.block[self.given])
        # a block of images is large: keep no more of it than is still to come
        self.block[self.given] = None
        self.given += 1
        return self.epoch, sample

    def _fill(self) -> None:
        """Read the next block, in turn from the open shards, and shuffle it."""
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
        """Where the block that is being given began, and how much of it was given."""
        return self.start | {"given": self.given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Read the block of that state again, and go on inside it."""
        self.epoch, self.blocks, self.waiting = state["epoch"], state["block"], state["next"]
        self.places = {unit: Place(offset, number) for unit, offset, number in state["open"]}
        self.block, self.given = [], 0
        self._begin()
        if state["given"]:
            self._fill()
            self.given = state["given"]
            self.block[: self.given] = [None] * self.given


class IndexCursor:
    """A worker's share of data that is read by number: its places in one row of fresh permutations."""

    def __init__(self, dataset: TaskDataset, seed: int, reader: Reader) -> None:
        """Begin at the first example."""
        self.dataset, self.seed, self.reader = dataset, seed, reader
        self.given = 0
        self._order: tuple[int, list[int]] = (-1, [])

    def __next__(self) -> Example:
        place = self.reader.index + self.given * self.reader.count
        epoch, position = divmod(place, len(self.dataset))
        if self._order[0] != epoch:
            # a reader far ahead of the others of its pass still has the same order
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self._order = epoch, torch.randperm(len(self.dataset), generator=generator).tolist()
        self.given += 1
        return self.dataset[epoch, self._order[1][position]]

    def state_dict(self) -> dict[str, Any]:
        """How many examples were given."""
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.given = state["given"]
