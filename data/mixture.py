"""Map-style torch datasets of examples: a task on a source, and a weighted mixture of several.

    TaskDataset: item i = task.example(source[i], rng of (seed, i))
    Mixture:     item j = an item of the dataset that (seed, j) draws by weight

Both are pure functions of seed and index: any worker, any process and a resumed run read the same examples. The
collator (`openpali.data.collator`) makes batches of them; `openpali.data.streaming.stream` does the same for tar
shards, which have no index.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch.utils.data import Dataset

from openpali.data.example import Example
from openpali.data.records import BadRecord, SkipLog, too_many_bad
from openpali.data.sources import Augmented, CheckedSource, Source, load_source
from openpali.data.sources.label_models import was_left_out
from openpali.data.tasks import Task, load_task

_MIN_RECORDS = 10


class TaskDataset(Dataset[Example]):
    """Item i is the task's example of record i, with random choices from (seed, i).

    The next record replaces one that is bad or does not suit the task. Bad records, with those that the source left
    out, go to the skip log. Item (epoch, i) has other choices and augmentations in each epoch; item i is (0, i).
    """

    def __init__(
        self,
        source: Source,
        task: Task,
        seed: int = 0,
        skip_log: SkipLog | None = None,
        max_bad_share: float = 0.1,
        split: str = "data",
    ) -> None:
        """Combine a source and a task.

        Args:
            source: of records.
            task: makes an example of a record.
            seed: of the random choices.
            skip_log: lists bad records.
            max_bad_share: reading ends when more than this share of a source of 10 records or more is bad, counted
                over all loader workers and processes that share the skip log.
            split: such as train, for messages.
        """
        if len(source) == 0:
            raise ValueError(f"the source {source.name!r} is empty")
        self.augmented = source if isinstance(source, Augmented) else None
        # the unchanged records: each example draws its own augmentation
        self.source = source = self.augmented.source if self.augmented else source
        self.task, self.seed = task, seed
        self.skip_log = skip_log if skip_log is not None else SkipLog()
        self.max_bad_share, self.split = max_bad_share, split
        for bad in source.bad if isinstance(source, CheckedSource) else ():
            self.skip_log.add(bad)
        self._bad: set[int] = set()

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int | tuple[int, int]) -> Example:
        epoch, index = index if isinstance(index, tuple) else (0, index)
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        return self.example(index, random.Random(f"{self.seed}-{index}" + (f"-{epoch}" if epoch else "")))

    def example(self, index: int, rng: random.Random) -> Example:
        """The example of record `index`, or of the first usable record after it.

        Raises:
            BadRecord: too many records are bad, or all are.
            ValueError: no record suits the task.
        """
        last_bad = None
        for step in range(len(self.source)):
            position = (index + step) % len(self.source)
            try:
                record = self.source[position]
                if self.augmented:
                    record = self.augmented.changed(record, rng)
                example = self.task.example(record, rng)
            except BadRecord as bad:
                last_bad = bad
                self._note(position, bad)
                continue
            except KeyError as error:
                if was_left_out(record, error):
                    continue
                raise ValueError(
                    f"the task {self.task.name!r} needs {error}, which the records of the source "
                    f"{self.source.name!r} do not have; the task 'plain' takes prefix and suffix as they are"
                ) from error
            if example is not None:
                groups = record.get("groups")
                return replace(example, meta=example.meta | {"groups": groups}) if groups else example
        if last_bad is not None and len(self._bad) == len(self.source):
            raise BadRecord(self.source.name, "all", f"no record can be used; the last one: {last_bad}")
        raise ValueError(f"no record of the source {self.source.name!r} suits the task {self.task.name!r}")

    def _note(self, position: int, bad: BadRecord) -> None:
        self._bad.add(position)
        total, data = len(self.source), f"{self.split} {self.task.name} {self.source.name} {len(self.source)}"
        self.skip_log.add(bad, data)
        count = max(len(self._bad), self.skip_log.count(data))
        if total >= _MIN_RECORDS and count > self.max_bad_share * total:
            raise too_many_bad(bad, f"{count} of {total} records of the {self.split} split", self.max_bad_share)


@dataclass(frozen=True)
class MixtureRow:
    """An entry of a mixture."""

    name: str
    task: str
    source: str
    weight: float
    expected_examples: float


def shares(names: Sequence[str], weights: dict[str, float] | None, temperature: float = 1.0) -> dict[str, float]:
    """Sampling weights that sum to one, in the order of `names`.

    Args:
        names: of the datasets.
        weights: of each dataset, such as its number of records; equal by default.
        temperature: weights are raised to the power 1 / temperature; above 1, small datasets are upsampled, as in T5
            (Raffel et al. 2020, section 3.5.2).
    """
    weights = weights if weights is not None else dict.fromkeys(names, 1.0)
    if set(weights) != set(names):
        raise ValueError(f"weights are for {sorted(weights)}, datasets are {sorted(names)}")
    if not names or min(weights.values()) < 0 or sum(weights.values()) <= 0:
        raise ValueError(f"weights={weights}: none may be negative and one must be positive")
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} must be positive")
    raised = {name: float(weights[name]) for name in names}
    if temperature != 1:
        # relative to the largest, so that no power is out of range
        largest = max(raised.values())
        raised = {name: (value / largest) ** (1 / temperature) for name, value in raised.items()}
    total = sum(raised.values())
    return {name: value / total for name, value in raised.items()}


class Mixture(Dataset[Example]):
    """Item j is an example of a dataset drawn by weight; dataset, record and choices come from (seed, j) alone."""

    def __init__(
        self,
        datasets: dict[str, TaskDataset],
        weights: dict[str, float] | None = None,
        num_examples: int = 10_000,
        seed: int = 0,
        temperature: float = 1.0,
    ) -> None:
        """Mix datasets.

        Args:
            datasets: name to dataset.
            weights: name to a number that is not negative; equal shares by default. They need not sum to one.
            num_examples: length of the mixture.
            seed: another seed is another sample.
            temperature: weights are raised to the power 1 / temperature.
        """
        self.datasets, self.num_examples, self.seed = dict(datasets), num_examples, seed
        self.weights = shares(list(datasets), weights, temperature)

    def __len__(self) -> int:
        return self.num_examples

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self.num_examples:
            raise IndexError(f"example {index} of {self.num_examples}")
        rng = random.Random(f"{self.seed}-{index}")
        name = rng.choices(list(self.weights), list(self.weights.values()))[0]
        dataset = self.datasets[name]
        return dataset.example(rng.randrange(len(dataset)), rng)

    def table(self) -> list[MixtureRow]:
        """Task, source, weight and expected number of examples of each dataset, the weights summing to one."""
        return [
            MixtureRow(name, data.task.name, data.source.name, weight, weight * self.num_examples)
            for name, data, weight in zip(self.datasets, self.datasets.values(), self.weights.values())
        ]


def show(task: dict[str, Any], source: dict[str, Any] | None = None, count: int = 10) -> None:
    """Print the prefix and suffix of some examples of a task, on the built-in images by default."""
    records = load_source(source or {"name": "emoji", "objects": [1, 4]})
    dataset = TaskDataset(records, load_task(task))
    for index in range(min(count, len(dataset))):
        example = dataset[index * len(dataset) // count if len(dataset) > count else index]
        print(f"{example.id}  {example.prefix!r} -> {example.suffix!r}")
