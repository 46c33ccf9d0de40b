"""What a transfer learns from: one task, a few examples of one, or several tasks at once."""

import dataclasses
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openpali.data.example import Example
from openpali.data.files.config import ConfigError, as_dict
from openpali.data.mixture import Mixture, TaskDataset
from openpali.data.sources import Augmented, RewritableSource, Source
from openpali.data.sources.webdataset import WebDataset
from openpali.data.streaming.stream import StreamMixture, TaskStream
from openpali.data.tasks import Task
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.run.datasets import (
    RewritableSubset,
    Subset,
    check_codec,
    make_task,
    mixed_data,
    skip_log,
    splits,
    task_data,
)
from openpali.recipes.training.trainer import run_length


@dataclass
class MixArguments:
    """How many examples of how many tasks."""

    examples: int | None = field(
        default=None, metadata={"help": "training examples to take, as in 64 or 4096; which ones, the seed says"}
    )
    mix: list[str] = field(
        default_factory=list, metadata={"help": "configurations whose data and tasks are learnt together"}
    )
    mix_weights: list[float] = field(
        default_factory=list, metadata={"help": "of each configuration; their numbers of examples if unset"}
    )
    task_prefix: bool = field(default=False, metadata={"help": "begin prompts of a mixture with the task's name"})

    def __post_init__(self):
        if self.examples is not None and self.examples < 1:
            raise ConfigError(f"examples={self.examples}: at least 1, or leave it out to take all")
        if self.mix_weights and len(self.mix_weights) != len(self.mix):
            raise ConfigError(f"mix_weights: {len(self.mix_weights)} weights for {len(self.mix)} configurations")


@dataclass
class Member:
    """One task with its data.

    Attributes:
        source: which records.
        task: what is made of them.
        train: to learn from.
        validation: to compare checkpoints by.
        test: to report on.
        default_room: nobody has said how many tokens answers may have.
    """

    source: dict[str, Any]
    task: Task
    train: TaskDataset | TaskStream
    validation: TaskDataset
    test: TaskDataset
    default_room: bool = False


@dataclass(frozen=True)
class NamedTask:
    """A task whose prompts begin with a name, as in `count: answer en how many dogs are there?`.

    Attributes:
        task: the task itself.
        prefix: name and colon.
    """

    task: Task
    prefix: str

    @property
    def name(self) -> str:
        """The task's."""
        return self.task.name

    @property
    def metric(self) -> str:
        """The task's."""
        return self.task.metric

    @property
    def metric_key(self) -> str:
        """The task's."""
        return self.task.metric_key

    @property
    def max_new_tokens(self) -> int:
        """The task's."""
        return self.task.max_new_tokens

    def example(self, record: dict[str, Any], rng: random.Random) -> Example | None:
        """The task's example, the name before its prompt."""
        found = self.task.example(record, rng)
        return found and dataclasses.replace(found, prefix=f"{self.prefix}{found.prefix}")

    def prediction(self, text: str, example: Example) -> Any:
        """The task's."""
        return self.task.prediction(text, example)

    def reference(self, example: Example) -> Any:
        """The task's."""
        return self.task.reference(example)


def load_member(
    source: dict[str, Any], task: dict[str, Any], run: RunArguments, max_bad_share: float, examples: int | None
) -> Member:
    """One task with its data.

    Args:
        source: name and options.
        task: likewise.
        run: whose seed the choices have.
        max_bad_share: of records that may turn out bad.
        examples: of training; all when None.
    """
    made = make_task(task)
    check_codec(made)
    parts = splits(source, run)
    train = few(parts["train"], examples, run.seed) if examples else parts["train"]
    options: dict[str, Any] = {"skip_log": skip_log(run), "max_bad_share": max_bad_share}
    held_out = {
        part: TaskDataset(parts[part], made, run.seed, split=part, **options) for part in ("validation", "test")
    }
    default_room = "max_new_tokens" not in task
    return Member(source, made, task_data(train, made, run, max_bad_share), **held_out, default_room=default_room)


def few(source: Source, examples: int, seed: int) -> Source:
    """So many records, drawn by the seed.

    Raises:
        ConfigError: there are not as many, or they are read in order.
    """
    if isinstance(source, Augmented):
        return Augmented(few(source.source, examples, seed), source.augment)
    if isinstance(source, WebDataset):
        raise ConfigError("examples: tar shards are read in order; give them a smaller set of shards instead")
    if examples > len(source):
        raise ConfigError(f"examples={examples}: there are {len(source)} to train on; take as many at most")
    kind = RewritableSubset if isinstance(source, RewritableSource) else Subset
    return kind(source, sorted(random.Random(f"few-{seed}").sample(range(len(source)), examples)))


def mixed_members(
    mix: MixArguments, run: RunArguments, max_bad_share: float, data_of: Callable[[str], dict[str, Any]]
) -> dict[str, Member]:
    """The tasks of several configurations, by the names of their files.

    Args:
        mix: which ones, and whether prompts name them.
        run: of the whole.
        max_bad_share: of records that may turn out bad.
        data_of: from the path of a configuration to its `source` and `task`.

    Raises:
        ConfigError: two have the same name, or one says nothing of data.
    """
    members: dict[str, Member] = {}
    for path in mix.mix:
        name, values = Path(path).stem, data_of(path)
        if name in members:
            raise ConfigError(f"mix: two configurations are called {name}; rename one of the files")
        source, task = as_dict(values["source"], "source"), as_dict(values["task"], "task")
        if not (source and task):
            raise ConfigError(f"mix: {path} has no source and task, nor data and kind")
        members[name] = load_member(source, task, run, max_bad_share, mix.examples)
        if mix.task_prefix:
            add_prefix(members[name], f"{name}: ")
    return members


def add_prefix(member: Member, prefix: str) -> None:
    """Begin the prompts of a member with a text."""
    member.task = NamedTask(member.task, prefix)
    for data in (member.train, member.validation, member.test):
        data.task = member.task


def training_data(
    members: dict[str, Member], mix: MixArguments, run: RunArguments
) -> TaskDataset | TaskStream | Mixture | StreamMixture:
    """The only member's data, or a mixture for the whole run, in which each comes as often as its weight says.

    Raises:
        ConfigError: the length of the run is not known.
    """
    if len(members) == 1:
        return next(iter(members.values())).train
    lengths = {name: run_length(member.train) for name, member in members.items()}
    if run.max_steps <= 0:
        known = [length for length in lengths.values() if length is not None]
        if len(known) < len(lengths):
            raise ConfigError("max_steps is missing: the length of a stream in the mixture is not known")
        run.max_steps = max(1, math.ceil(run.num_train_epochs * sum(known) / run.examples_per_step))
    given = mix.mix_weights or ["size"] * len(members)
    weights: dict[str, float | str] = dict(zip(members, given, strict=True))
    run.say("Mixture of " + ", ".join(f"{name} ({lengths[name] or 'a stream'}, {weights[name]})" for name in members))
    return mixed_data({name: member.train for name, member in members.items()}, weights, run)
