"""From the source and task of a configuration to datasets: splits, mixtures, and reports of bad records."""

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from openpali.data.files.config import ConfigError
from openpali.data.masks.mask_tokenizer import load_codec, save_codec
from openpali.data.mixture import Mixture, TaskDataset
from openpali.data.records import BadRecord, SkipLog
from openpali.data.sources import (
    Augmented,
    CheckedSource,
    Source,
    TextRewritingSource,
    augmented,
    credits_of,
    load_source,
)
from openpali.data.sources.jsonl import JsonlSource
from openpali.data.sources.webdataset import WebDataset
from openpali.data.streaming.stream import StreamMixture, TaskStream
from openpali.data.tasks import Task, load_task
from openpali.data.tasks.refer import Refer
from openpali.data.tasks.segment import Segment
from openpali.modeling.segmentation_tokens import CODES_PER_MASK, SEGMENTATION_CODES
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.run.number_checks import at_least_one
from openpali.recipes.run.run_folder import SKIPPED_FILE

SHOWN = 20


class Subset:
    """The records of a source at some indices, as a source."""

    def __init__(self, source: Source, indices: Sequence[int]):
        self.source, self.indices = source, indices
        self.name = source.name

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.source[self.indices[index]]

    @property
    def credits(self) -> str:
        """Those of the source."""
        return credits_of(self.source)


class TextRewritingSubset(Subset):
    """The same of a source that can rewrite its texts, which augmentations need."""

    source: TextRewritingSource

    def rewritten(self, record: dict[str, Any]) -> dict[str, Any]:
        """The record with its texts rewritten to fit its objects."""
        return self.source.rewritten(record)


def make_source(spec: dict[str, Any]) -> Source:
    """`load_source`, with its errors as ConfigError."""
    try:
        return load_source(spec)
    except ValueError as error:
        raise ConfigError(f"source: {error}") from error


def make_task(spec: dict[str, Any]) -> Task:
    """`load_task`, with its errors as ConfigError."""
    try:
        task = load_task(spec)
    except ValueError as error:
        raise ConfigError(f"task: {error}") from error
    at_least_one({"task.max_new_tokens": task.max_new_tokens})
    return task


def mask_tokenizer_of(task: Task) -> str | None:
    """The mask tokenizer of a task that writes masks, perhaps wrapped in another; None for other tasks."""
    task = getattr(task, "task", task)
    if isinstance(task, Refer):
        return None if task.boxes_only else task.codec
    return task.codec if isinstance(task, Segment) else None


def keep_mask_tokenizer(tasks: Iterable[Task], run: RunArguments) -> None:
    """Save the mask tokenizer of the tasks beside the weights of a run, so that its answers can be read later."""
    names = [name for name in map(mask_tokenizer_of, tasks) if name is not None]
    if names and run.process_index == 0:
        save_codec(names[0], run.folder)


def check_mask_tokenizer(task: Task) -> None:
    """Check that the mask tokenizer of a task that writes masks can be loaded, before the run begins.

    Raises:
        ConfigError: there is none, or its masks are not the sixteen tokens that models write.
    """
    name = mask_tokenizer_of(task)
    if name is None:
        return
    try:
        config = load_codec(name).config
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if config.codebook_size > SEGMENTATION_CODES or config.grid_size**2 != CODES_PER_MASK:
        raise ConfigError(
            f"codec: {name} writes {config.grid_size**2} of {config.codebook_size} codes for a mask, and models"
            f" write {CODES_PER_MASK} of {SEGMENTATION_CODES}: give another one"
        )


def load_splits(spec: dict[str, Any], run: RunArguments) -> dict[str, Source]:
    """Train, validation and test splits of a source.

    A source with a `split` option has its own. Of any other source some records are held out, always the same ones:
    a fifth of fewer than 100, else a tenth, 512 at most; they are both the validation and the test split. Of tar
    shards, which are iterable, the first records are held out, or those of their `validation_path`. The option
    `augment` applies to the train split alone. Bad records are printed, and listed in the run's folder.
    """
    plain = {key: value for key, value in spec.items() if key != "augment"}
    if "split" in spec:
        splits = {name: make_source(plain | {"split": name}) for name in ("train", "validation", "test")}
        for split in splits.values():
            report_bad_records(split, run)
    else:
        source = make_source(plain)
        splits = split_shards(source, run) if isinstance(source, WebDataset) else split_source(source, run)
    if not spec.get("augment"):
        return splits
    try:
        return splits | {"train": augmented(splits["train"], spec["augment"])}
    except ValueError as error:
        raise ConfigError(f"source: {error}") from error


def split_source(source: Source, run: RunArguments) -> dict[str, Source]:
    """Hold out some records of a map-style source for validation and test."""
    report_bad_records(source, run)
    total = len(source)
    held_out = max(1, min(512, total // 5 if total < 100 else total // 10))
    chosen = set(random.Random(0).sample(range(total), held_out))
    if isinstance(source, JsonlSource):
        # questions of one conversation are about one image
        lines = {source.line(index) for index in chosen}
        chosen = {index for index in range(total) if source.line(index) in lines}
    rest = [i for i in range(total) if i not in chosen] or list(chosen)
    kind = TextRewritingSubset if isinstance(source, TextRewritingSource) else Subset
    validation = kind(source, sorted(chosen))
    run.say(
        f"{source.name}: {total} records; {len(rest)} for training, {len(chosen)} held out for validation and test"
    )
    return {"train": kind(source, rest), "validation": validation, "test": validation}


def split_shards(source: WebDataset, run: RunArguments) -> dict[str, Source]:
    """Hold out some records of tar shards for validation and test."""
    try:
        validation = source.set_aside()
    except ValueError as error:
        raise ConfigError(f"source: validation_path: {error}") from error
    if len(validation) == 0:
        raise ConfigError(f"source: {source.urls[0]} holds no record that could be held out for validation")
    where = "of validation_path" if source.validation_path else "of the first ones"
    run.say(f"{source.name}: {len(source.urls)} shards; {len(validation)} records {where} for validation and test")
    return {"train": source, "validation": validation, "test": validation}


def make_dataset(
    source: Source, task: Task, run: RunArguments, max_bad_share: float = 0.1
) -> TaskDataset | TaskStream:
    """Training examples of a task: a map-style dataset, or this process's share of a stream.

    Args:
        source: the train split of `load_splits`.
        task: makes examples of its records.
        run: gives the seed of random choices, and the folder for the list of skipped records.
        max_bad_share: share of bad records above which reading ends with an error.
    """
    inner = source.source if isinstance(source, Augmented) else source
    if not isinstance(inner, WebDataset):
        return TaskDataset(source, task, run.seed, skip_log(run), max_bad_share, split="train")
    shards: Any = source
    place = run.process_index, run.world_size
    return TaskStream(shards, task, run.seed, skip_log(run), max_bad_share, *place)


def mix_datasets(
    datasets: dict[str, TaskDataset | TaskStream],
    weights: dict[str, float | str],
    run: RunArguments,
    temperature: float = 1.0,
) -> Mixture | StreamMixture:
    """A mixture for the whole run, which is a stream if one of its datasets is.

    Args:
        datasets: those of `make_dataset`, by name.
        weights: of each; "size" is its number of records.
        run: its number of steps gives the mixture's length.
        temperature: weights are taken to the power of 1 / temperature.

    Raises:
        ConfigError: a weight is invalid, or a size is not known.
    """
    numbers: dict[str, float] = {}
    for name, weight in weights.items():
        data = datasets[name]
        size = data.length if isinstance(data, TaskStream) else len(data)
        if weight == "size" and size is None:
            raise ConfigError(
                f"mixture: the size of {name} is not known: give its source a length, or the entry a weight"
            )
        if weight != "size" and not isinstance(weight, int | float):
            raise ConfigError(f"mixture: the weight of {name} is a number or size, not {weight!r}")
        numbers[name] = float(size if weight == "size" and size is not None else weight)
    total = run.max_steps * run.examples_per_step
    map_style = {name: data for name, data in datasets.items() if isinstance(data, TaskDataset)}
    try:
        if len(map_style) == len(datasets):
            return Mixture(map_style, numbers, total, run.seed, temperature)
        return StreamMixture(datasets, numbers, total, run.seed, run.process_index, run.world_size, temperature)
    except ValueError as error:
        raise ConfigError(f"mixture: {error}") from error


def first_records(source: Source, count: int) -> Iterator[dict[str, Any]]:
    """The first good records of a split, map-style or iterable."""
    inner = source.source if isinstance(source, Augmented) else source
    if isinstance(inner, WebDataset):
        yield from itertools.islice(inner.records(), count)
        return
    left, index = count, 0
    while left and index < len(source):
        index += 1
        try:
            yield source[index - 1]
            left -= 1
        except BadRecord:
            continue


def report_bad_records(source: Source, run: RunArguments) -> None:
    """Print the first bad records that a source has left out, and list all of them in the run's folder."""
    if run.process_index > 0 or not isinstance(source, CheckedSource):
        return
    for note in source.notes:
        run.say(f"{source.name}: {note}")
    if not source.bad:
        return
    log = skip_log(run)
    for bad in source.bad:
        log.add(bad)
    total = len(source) + len(source.bad)
    run.say(f"{source.bad[0].file}: {len(source.bad)} of {total} records cannot be used and are skipped:")
    for bad in source.bad[:SHOWN]:
        run.say(f"  {bad}")
    if len(source.bad) > SHOWN:
        run.say(f"  and {len(source.bad) - SHOWN} more, in {log.path}")


def skip_log(run: RunArguments) -> SkipLog:
    """The file of a run that lists skipped records."""
    return SkipLog(run.folder / SKIPPED_FILE)


def report_skipped(run: RunArguments) -> None:
    """Print how many records the run skipped."""
    log = skip_log(run)
    skipped = log.read()
    if skipped:
        run.say(f"Skipped {len(skipped)} records that cannot be used; {log.path} gives the reason for each")
