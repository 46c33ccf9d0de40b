"""The tasks of a transfer with their data: one task, some examples of one, or a mixture of several."""

import dataclasses
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openpali.data.example import Example
from openpali.data.files.config import ConfigError, as_dict
from openpali.data.masks.mask_tokenizer import with_codec
from openpali.data.mixture import Mixture, TaskDataset
from openpali.data.sources import Augmented, Source, TextRewritingSource
from openpali.data.sources.webdataset import WebDataset
from openpali.data.streaming.stream import StreamMixture, TaskStream
from openpali.data.tasks import Task
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.run.datasets import (
    Subset,
    TextRewritingSubset,
    check_mask_tokenizer,
    load_splits,
    make_dataset,
    make_task,
    mix_datasets,
    skip_log,
)
from openpali.recipes.stages.task_bases import WrappedTask
from openpali.recipes.training.trainer import run_length


@dataclass
class MixArguments:
    """Options for some examples of a task, and for a mixture of tasks."""

    examples: int | None = field(
        default=None,
        metadata={"help": "number of training examples, as in 64, drawn by the seed; all if unset"},
    )
    mix: list[str] = field(default_factory=list, metadata={"help": "configurations whose tasks are trained together"})
    mix_weights: list[float] = field(
        default_factory=list, metadata={"help": "of each configuration; numbers of examples if unset"}
    )
    task_prefix: bool = field(default=False, metadata={"help": "begin prompts of a mixture with the task's name"})

    def __post_init__(self):
        if self.examples is not None and self.examples < 1:
            raise ConfigError(f"examples={self.examples}: at least 1, or leave it out to take all")
        if self.mix_weights and len(self.mix_weights) != len(self.mix):
            raise ConfigError(f"mix_weights: {len(self.mix_weights)} weights for {len(self.mix)} configurations")


@dataclass
class TaskData:
    """A task with its datasets.

    Attributes:
        source: name and options of the source.
        task: makes examples of its records.
        train: the train split.
        validation: the validation split, by which checkpoints are compared.
        test: the test split, for the final report.
        default_answer_length: whether the configuration leaves `max_new_tokens` at the task's default.
    """

    source: dict[str, Any]
    task: Task
    train: TaskDataset | TaskStream
    validation: TaskDataset
    test: TaskDataset
    default_answer_length: bool = False


@dataclass(frozen=True)
class PrefixedTask(WrappedTask):
    """A task whose prompts begin with its name, as in `count: answer en how many dogs are there?`.

    Attributes:
        task: the task itself.
        prefix: the name and a colon.
    """

    task: Task
    prefix: str

    def example(self, record: dict[str, Any], rng: random.Random) -> Example | None:
        """The task's example, with the prefix before its prompt."""
        found = self.task.example(record, rng)
        return found and dataclasses.replace(found, prefix=f"{self.prefix}{found.prefix}")


def load_task_data(
    source: dict[str, Any],
    task: dict[str, Any],
    run: RunArguments,
    max_bad_share: float,
    examples: int | None,
    model: str | None = None,
) -> TaskData:
    """Load a task and its datasets.

    Args:
        source: name and options.
        task: name and options.
        run: gives the seed of random choices.
        max_bad_share: share of bad records above which reading ends with an error.
        examples: number of training examples; all when None.
        model: the checkpoint to start from, whose mask tokenizer is the default.
    """
    made = make_task(with_codec(task, model))
    check_mask_tokenizer(made)
    splits = load_splits(source, run)
    train = draw_records(splits["train"], examples, run.seed) if examples else splits["train"]
    options: dict[str, Any] = {"skip_log": skip_log(run), "max_bad_share": max_bad_share}
    held_out = {
        split: TaskDataset(splits[split], made, run.seed, split=split, **options) for split in ("validation", "test")
    }
    default_length = "max_new_tokens" not in task
    train_data = make_dataset(train, made, run, max_bad_share)
    return TaskData(source, made, train_data, **held_out, default_answer_length=default_length)


def draw_records(source: Source, count: int, seed: int) -> Source:
    """Draw `count` records of a source at random.

    Raises:
        ConfigError: the source has fewer, or it is iterable.
    """
    if isinstance(source, Augmented):
        return Augmented(draw_records(source.source, count, seed), source.augment)
    if isinstance(source, WebDataset):
        raise ConfigError("examples: tar shards are read in order; give them a smaller set of shards instead")
    if count > len(source):
        raise ConfigError(f"examples={count}: there are {len(source)} to train on; take as many at most")
    kind = TextRewritingSubset if isinstance(source, TextRewritingSource) else Subset
    return kind(source, sorted(random.Random(f"few-{seed}").sample(range(len(source)), count)))


def load_mixture(
    mix: MixArguments,
    run: RunArguments,
    max_bad_share: float,
    values_of: Callable[[str], dict[str, Any]],
    model: str | None = None,
) -> dict[str, TaskData]:
    """Load the tasks of several configurations, by the names of their files.

    Args:
        mix: the configurations, and whether prompts begin with their names.
        run: of the whole mixture.
        max_bad_share: share of bad records above which reading ends with an error.
        values_of: from the path of a configuration to its values, `source` and `task` among them.
        model: the checkpoint to start from, whose mask tokenizer is the default.

    Raises:
        ConfigError: two configurations have the same name, or one has no source or task.
    """
    tasks: dict[str, TaskData] = {}
    for path in mix.mix:
        name, values = Path(path).stem, values_of(path)
        if name in tasks:
            raise ConfigError(f"mix: two configurations are called {name}; rename one of the files")
        source, task = as_dict(values["source"], "source"), as_dict(values["task"], "task")
        if not (source and task):
            raise ConfigError(f"mix: {path} has no source and task, nor data and kind")
        tasks[name] = load_task_data(source, task, run, max_bad_share, mix.examples, model)
        if mix.task_prefix:
            add_prefix(tasks[name], f"{name}: ")
    return tasks


def add_prefix(data: TaskData, prefix: str) -> None:
    """Begin the prompts of a task with a text."""
    data.task = PrefixedTask(data.task, prefix)
    for split in (data.train, data.validation, data.test):
        split.task = data.task


def combine_training_data(
    tasks: dict[str, TaskData], mix: MixArguments, run: RunArguments
) -> TaskDataset | TaskStream | Mixture | StreamMixture:
    """The train split of the only task, or the weighted mixture of several for the whole run.

    Raises:
        ConfigError: the length of the run is not known.
    """
    if len(tasks) == 1:
        return next(iter(tasks.values())).train
    lengths = {name: run_length(data.train) for name, data in tasks.items()}
    if run.max_steps <= 0:
        known = [length for length in lengths.values() if length is not None]
        if len(known) < len(lengths):
            raise ConfigError("max_steps is missing: the length of a stream in the mixture is not known")
        run.max_steps = max(1, math.ceil(run.num_train_epochs * sum(known) / run.examples_per_step))
    given = mix.mix_weights or ["size"] * len(tasks)
    weights: dict[str, float | str] = dict(zip(tasks, given, strict=True))
    run.say("Mixture of " + ", ".join(f"{name} ({lengths[name] or 'a stream'}, {weights[name]})" for name in tasks))
    return mix_datasets({name: data.train for name, data in tasks.items()}, weights, run)
