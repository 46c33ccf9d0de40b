"""Iterable-style datasets of examples from tar shards: sharded over processes and workers, shuffled, resumable.

The counterpart of `openpali.data.mixture` for iterable-style data. An iterator's output is a function of the seed, of
the worker's index among all workers, and of its `state_dict`. A worker that resumes reads the few hundred undecoded
samples of its block again, and decodes only the remaining ones.
"""

import hashlib
import json
import random
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, cast

from torch.utils.data import IterableDataset, get_worker_info

from openpali.data.example import Example
from openpali.data.files.tar_shards import Sample
from openpali.data.mixture import MixtureRow, TaskDataset, shares
from openpali.data.records import BadRecord, SkipLog, too_many_bad
from openpali.data.sources import Augmented
from openpali.data.sources.label_models import was_left_out
from openpali.data.sources.webdataset import WebDataset
from openpali.data.streaming.positions import Cursor, IndexCursor, Reader, ShardCursor
from openpali.data.tasks import Task

_MIN_RECORDS, _MIN_LENGTH, _MIN_SHARDS = 100, 10, 10
_BARREN_PASSES = 20
_BARREN_RECORDS = 10_000


class StateMismatch(ValueError):
    """A saved position belongs to other data or another number of workers."""


class TaskCursor:
    """Examples of a task on a worker's share of the shards; bad records are counted, listed and skipped."""

    def __init__(self, stream: "TaskStream", reader: Reader) -> None:
        """Start at the first example."""
        self.stream, self.samples = stream, ShardCursor(stream.source, stream.seed, reader)
        self.read, self.bad = 0, 0
        self.lost: list[str] = []
        self.barren_passes, self.barren_records = 0, 0

    def __next__(self) -> Example:
        while self.samples.epoch != self.stream.epochs:
            found = self.samples.next()
            if found is None:
                self._end_of_pass()
                continue
            epoch, sample = found
            self.read += 1
            self.barren_records += 1
            try:
                example = self._example(
                    sample, random.Random(f"{self.stream.seed}-{epoch}-{sample.shard}:{sample.key}")
                )
            except BadRecord as bad:
                self._note(bad, sample)
                continue
            if example is not None:
                self.barren_passes = self.barren_records = 0
                return example
            if self.barren_records >= _BARREN_RECORDS:
                self._give_up()
        raise StopIteration

    def _end_of_pass(self) -> None:
        """Stop after many epochs without an example; a worker's share of a single epoch may have none."""
        self.barren_passes += 1
        if self.barren_passes > _BARREN_PASSES:
            self._give_up()

    def _give_up(self) -> None:
        source, task = self.stream.source, self.stream.task
        raise BadRecord(
            source.name,
            source.urls[0],
            f"none of {self.barren_records} records in a row suits the task {task.name!r}",
            "See skipped_records.jsonl for problems of records, and the task for the keys that it needs.",
        )

    def _example(self, sample: Sample, rng: random.Random) -> Example | None:
        record = self.stream.source.record(sample)
        if self.stream.augmented is not None:
            record = self.stream.augmented.changed(record, rng)
        try:
            return self.stream.task.example(record, rng)
        except KeyError as error:
            if was_left_out(record, error):
                return None
            reason = f"the task {self.stream.task.name!r} needs {error}, which it does not have"
            raise BadRecord(f"{sample.shard}.tar", sample.key, reason, "Add it, or choose another task.") from error

    def _note(self, bad: BadRecord, sample: Sample) -> None:
        """Count a bad record or damaged shard. Raises BadRecord when there are too many of either."""
        stream, share = self.stream, self.stream.max_bad_share
        self.bad += 1
        data = f"train {stream.task.name} {stream.source.name} {stream.length}"
        stream.skip_log.add(bad, data)
        if sample.lost and sample.shard not in self.lost:
            self.lost.append(sample.shard)
        count, total, least = self.bad, self.read, _MIN_RECORDS
        if stream.length:
            # over all workers and processes, of the whole dataset
            count, total, least = stream.skip_log.count(data), max(total, stream.length), _MIN_LENGTH
        if total >= least and count > share * total:
            raise too_many_bad(bad, f"{count} of {total} records", share) from bad
        if len(self.lost) > share * self.samples.opened and self.samples.opened >= _MIN_SHARDS:
            raise too_many_bad(bad, f"{len(self.lost)} of {self.samples.opened} shards", share) from bad
        if self.barren_records >= _BARREN_RECORDS:
            self._give_up()

    def state_dict(self) -> dict[str, Any]:
        """The position in the shards, and the counts of bad records and shards."""
        barren = [self.barren_passes, self.barren_records]
        counts = {"read": self.read, "bad": self.bad, "lost": list(self.lost), "barren": barren}
        return {"samples": self.samples.state_dict()} | counts

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a position."""
        self.samples.load_state_dict(state["samples"])
        self.read, self.bad, self.lost = state["read"], state["bad"], list(state["lost"])
        self.barren_passes, self.barren_records = state["barren"]


class MixedCursor:
    """Examples of several cursors, drawn by weight."""

    def __init__(self, stream: "StreamMixture", reader: Reader) -> None:
        """Start at the first example."""
        self.weights, self.seed, self.reader = stream.weights, stream.seed, reader
        self.members = {name: stream.cursor_of(name, reader) for name in stream.weights}
        self.given = 0

    def __next__(self) -> Example:
        rng = random.Random(f"{self.seed}-{self.reader.index}-{self.given}")
        name = rng.choices(list(self.weights), list(self.weights.values()))[0]
        self.given += 1
        return next(self.members[name])

    def state_dict(self) -> dict[str, Any]:
        """The states of all cursors, and the number of yielded examples."""
        return {"given": self.given, "members": {name: own.state_dict() for name, own in self.members.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a position."""
        self.given = state["given"]
        for name, own in self.members.items():
            own.load_state_dict(state["members"][name])


class Examples(Iterator[Example]):
    """The iterator of a stream in one worker, which a StatefulDataLoader saves and restores."""

    def __init__(self, cursor: Cursor, reader: Reader, digest: str) -> None:
        """Wrap a cursor for the loader."""
        self.cursor, self.reader, self.digest = cursor, reader, digest

    def __next__(self) -> Example:
        return next(self.cursor)

    def state_dict(self) -> dict[str, Any]:
        """The position as JSON text, which cannot change before it is saved."""
        own = {"reader": list(self.reader), "data": self.digest}
        return {"position": json.dumps(own | {"cursor": self.cursor.state_dict()})}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a position.

        Raises:
            StateMismatch: it belongs to other data or another number of workers.
        """
        position = json.loads(state["position"])
        if position["reader"] != list(self.reader):
            before, now = position["reader"], list(self.reader)
            raise StateMismatch(f"the position is of worker {before[0]} of {before[1]}, this is {now[0]} of {now[1]}")
        if position["data"] != self.digest:
            raise StateMismatch("the position is of other data: the shards, tasks, weights or the seed have changed")
        self.cursor.load_state_dict(position["cursor"])


class ExampleStream(IterableDataset[Example]):
    """Base of streams: each loader worker of each process iterates over its own share.

    Attributes:
        rank: of this process.
        world_size: number of processes.
        length: examples of one epoch over all processes; None if unknown.
    """

    length: int | None = None

    def __init__(self, rank: int, world_size: int) -> None:
        """Set the process."""
        if not 0 <= rank < world_size:
            raise ValueError(f"process {rank} of {world_size}")
        self.rank, self.world_size = rank, world_size

    @abstractmethod
    def cursor(self, reader: Reader) -> Cursor:
        """The examples of one reader."""

    @abstractmethod
    def digest(self) -> str:
        """A hash that is equal for two streams of the same data in the same order."""

    def __iter__(self) -> Examples:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        reader = Reader(self.rank * workers + worker, self.world_size * workers)
        return Examples(self.cursor(reader), reader, self.digest())


class TaskStream(ExampleStream):
    """Endless examples of a task on tar shards."""

    def __init__(
        self,
        source: WebDataset | Augmented,
        task: Task,
        seed: int = 0,
        skip_log: SkipLog | None = None,
        max_bad_share: float = 0.1,
        rank: int = 0,
        world_size: int = 1,
        epochs: int | None = None,
    ) -> None:
        """Combine tar shards and a task.

        Args:
            source: of the shards.
            task: makes an example of a record.
            seed: of the order and the random choices.
            skip_log: lists bad records.
            max_bad_share: reading ends when more than this share of the source's length is bad; if that is unknown,
                of the records that this worker has read (at least 100), or of its shards (at least 10).
            rank: of this process.
            world_size: number of processes.
            epochs: number of passes over the data; endless by default.
        """
        super().__init__(rank, world_size)
        self.augmented = source if isinstance(source, Augmented) else None
        self.source = cast(WebDataset, source.source if isinstance(source, Augmented) else source)
        self.task, self.seed, self.epochs = task, seed, epochs
        self.skip_log = skip_log if skip_log is not None else SkipLog()
        self.max_bad_share, self.length = max_bad_share, self.source.length

    def cursor(self, reader: Reader) -> TaskCursor:
        """The examples of one reader."""
        return TaskCursor(self, reader)

    def digest(self) -> str:
        """A hash of everything that determines the order."""
        source = self.source
        options: list[Any] = [source.shuffle, source.open_shards, sorted(source.reserved.items())]
        # positions that were saved before there was this option stay valid
        options += [] if source.label_models is None else [source.label_models]
        return _digest(["shards", source.names, options, self.task.name, self.seed])


class StreamMixture(ExampleStream):
    """Endless examples of several streams and datasets, drawn by weight."""

    def __init__(
        self,
        members: dict[str, TaskStream | TaskDataset],
        weights: dict[str, float] | None = None,
        num_examples: int = 10_000,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        temperature: float = 1.0,
    ) -> None:
        """Mix streams and map-style datasets.

        Args:
            members: name to stream or dataset.
            weights: name to a number that is not negative; equal shares by default. They need not sum to one.
            num_examples: of the run, on all processes together, for the table.
            seed: another seed is another sample.
            rank: of this process.
            world_size: number of processes.
            temperature: weights are raised to the power 1 / temperature.
        """
        super().__init__(rank, world_size)
        self.members, self.num_examples, self.seed = dict(members), num_examples, seed
        self.weights = shares(list(members), weights, temperature)

    def cursor_of(self, name: str, reader: Reader) -> Cursor:
        """The examples of one member for one reader."""
        member = self.members[name]
        return member.cursor(reader) if isinstance(member, TaskStream) else IndexCursor(member, self.seed, reader)

    def cursor(self, reader: Reader) -> MixedCursor:
        """The examples of one reader."""
        return MixedCursor(self, reader)

    def digest(self) -> str:
        """A hash of all members and weights."""
        own = {n: m.digest() if isinstance(m, TaskStream) else [len(m), m.seed] for n, m in self.members.items()}
        return _digest(["mixture", own, self.weights, self.seed])

    def table(self) -> list[MixtureRow]:
        """Task, source, weight and expected number of examples of each member, the weights summing to one."""
        return [
            MixtureRow(name, self.members[name].task.name, self.members[name].source.name, w, w * self.num_examples)
            for name, w in self.weights.items()
        ]


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
