"""Sources and tasks as configurations name them: splits, examples, and what is wrong with the records."""

import itertools
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from openpali.data.files.config import ConfigError
from openpali.data.masks.mask_tokenizer import load_codec
from openpali.data.mixture import Mixture, TaskDataset
from openpali.data.records import BadRecord, SkipLog
from openpali.data.sources import (
    Augmented,
    CheckedSource,
    RewritableSource,
    Source,
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
from openpali.modeling.checkpoints import is_folder_name, no_folder
from openpali.modeling.segmentation_tokens import CODES_PER_MASK, SEGMENTATION_CODES
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.run.number_checks import at_least_one
from openpali.recipes.run.run_folder import SKIPPED_FILE

SHOWN = 20


class Subset:
    """Some records of a source, as a source."""

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


class RewritableSubset(Subset):
    """The same of a source that can write its texts anew, which augmentations need."""

    source: RewritableSource

    def rewritten(self, record: dict[str, Any]) -> dict[str, Any]:
        """The record with texts that are true of its objects."""
        return self.source.rewritten(record)


def check_folder(name: str | None, key: str) -> str:
    """The folder or Hub name of a checkpoint.

    Raises:
        ConfigError: if it is missing, or looks like a folder and is none.
    """
    if not name:
        raise ConfigError(f"{key} is missing: give --{key} with the folder or Hub name of a checkpoint")
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").exists():
            raise ConfigError(f"{key}: {name} holds no model (no config.json); has its run finished?")
    elif is_folder_name(name):
        raise ConfigError(f"{key}: {no_folder(name)}; or train that stage first")
    return name


def make_source(spec: dict[str, Any]) -> Source:
    """`load_source`, its complaints as configuration errors."""
    try:
        return load_source(spec)
    except ValueError as error:
        raise ConfigError(f"source: {error}") from error


def make_task(spec: dict[str, Any]) -> Task:
    """`load_task`, its complaints as configuration errors."""
    try:
        task = load_task(spec)
    except ValueError as error:
        raise ConfigError(f"task: {error}") from error
    at_least_one({"task.max_new_tokens": task.max_new_tokens})
    return task


def check_codec(task: Task) -> None:
    """Look for the mask codec of a task that writes masks, before any time is spent.

    Raises:
        ConfigError: there is none, or its masks are not the sixteen tokens that models write.
    """
    if not isinstance(task, Segment | Refer) or isinstance(task, Refer) and task.boxes_only:
        return
    try:
        config = load_codec(task.codec).config
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if config.codebook_size > SEGMENTATION_CODES or config.grid_size**2 != CODES_PER_MASK:
        raise ConfigError(
            f"codec: {task.codec} writes {config.grid_size**2} of {config.codebook_size} codes for a mask, and models"
            f" write {CODES_PER_MASK} of {SEGMENTATION_CODES}: give another one"
        )


def splits(spec: dict[str, Any], run: RunArguments) -> dict[str, Source]:
    """Train, validation and test parts of a source.

    A source with a `split` option is asked for each. Of any other one some records are set aside, always the
    same ones: a fifth of fewer than 100, else a tenth, 512 at most; they serve as validation and as test part.
    Of tar shards, which are read in order, the first records are set aside, or those of their `validation_path`.
    The option `augment` is for the train part alone. What is wrong with records is printed and listed in the run's
    folder.
    """
    plain = {key: value for key, value in spec.items() if key != "augment"}
    if "split" in spec:
        parts = {name: make_source(plain | {"split": name}) for name in ("train", "validation", "test")}
        for part in parts.values():
            report_bad_records(part, run)
    else:
        source = make_source(plain)
        parts = shard_parts(source, run) if isinstance(source, WebDataset) else held_out_splits(source, run)
    if not spec.get("augment"):
        return parts
    try:
        return parts | {"train": augmented(parts["train"], spec["augment"])}
    except ValueError as error:
        raise ConfigError(f"source: {error}") from error


def held_out_splits(source: Source, run: RunArguments) -> dict[str, Source]:
    """A source of which some records are set aside for validation and test."""
    report_bad_records(source, run)
    total = len(source)
    held_out = max(1, min(512, total // 5 if total < 100 else total // 10))
    chosen = set(random.Random(0).sample(range(total), held_out))
    if isinstance(source, JsonlSource):
        # questions of one conversation are about one image
        lines = {source.line(index) for index in chosen}
        chosen = {index for index in range(total) if source.line(index) in lines}
    rest = [i for i in range(total) if i not in chosen] or list(chosen)
    kind = RewritableSubset if isinstance(source, RewritableSource) else Subset
    validation = kind(source, sorted(chosen))
    run.say(
        f"{source.name}: {total} records; {len(rest)} to train on, {len(chosen)} set aside for validation and test"
    )
    return {"train": kind(source, rest), "validation": validation, "test": validation}


def shard_parts(source: WebDataset, run: RunArguments) -> dict[str, Source]:
    """Tar shards, and those of their records that are set aside for validation and test."""
    try:
        validation = source.set_aside()
    except ValueError as error:
        raise ConfigError(f"source: validation_path: {error}") from error
    if len(validation) == 0:
        raise ConfigError(f"source: {source.urls[0]} holds no record that could be set aside for validation")
    where = "of validation_path" if source.validation_path else "of the first ones"
    run.say(f"{source.name}: {len(source.urls)} shards; {len(validation)} records {where} for validation and test")
    return {"train": source, "validation": validation, "test": validation}


def task_data(source: Source, task: Task, run: RunArguments, max_bad_share: float = 0.1) -> TaskDataset | TaskStream:
    """Examples of a task on a part of `splits`: by number, or as this process's share of a stream.

    Args:
        source: a part.
        task: makes examples of its records.
        run: whose seed the choices have, and whose folder the list of skipped records.
        max_bad_share: with more bad records than that, reading ends.
    """
    inner = source.source if isinstance(source, Augmented) else source
    if not isinstance(inner, WebDataset):
        return TaskDataset(source, task, run.seed, skip_log(run), max_bad_share, split="train")
    shards: Any = source
    place = run.process_index, run.world_size
    return TaskStream(shards, task, run.seed, skip_log(run), max_bad_share, *place)


def mixed_data(
    members: dict[str, TaskDataset | TaskStream],
    weights: dict[str, float | str],
    run: RunArguments,
    temperature: float = 1.0,
) -> Mixture | StreamMixture:
    """A mixture for the whole run, which is a stream if one of its members is.

    Args:
        members: what `task_data` gives, by name.
        weights: of each; "size" is its number of records.
        run: its steps are the mixture's length.
        temperature: weights are taken to the power of 1 / temperature.

    Raises:
        ConfigError: the weights make no sense, or a size is not known.
    """
    numbers: dict[str, float] = {}
    for name, weight in weights.items():
        member = members[name]
        size = member.length if isinstance(member, TaskStream) else len(member)
        if weight == "size" and size is None:
            raise ConfigError(f"mixture: the size of {name} is not known: give its source a length, or it a weight")
        if weight != "size" and not isinstance(weight, int | float):
            raise ConfigError(f"mixture: the weight of {name} is a number or size, not {weight!r}")
        numbers[name] = float(size if weight == "size" and size is not None else weight)
    total = run.max_steps * run.examples_per_step
    by_number = {name: member for name, member in members.items() if isinstance(member, TaskDataset)}
    try:
        if len(by_number) == len(members):
            return Mixture(by_number, numbers, total, run.seed, temperature)
        return StreamMixture(members, numbers, total, run.seed, run.process_index, run.world_size, temperature)
    except ValueError as error:
        raise ConfigError(f"mixture: {error}") from error


def first_records(source: Source, count: int) -> Iterator[dict[str, Any]]:
    """The first records of a part of `splits` that are good, whether it is read by number or in order."""
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
    """Say what is wrong with the records that a source has left out, and list all of them in the run's folder."""
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
    """The list of skipped records of a run."""
    return SkipLog(run.folder / SKIPPED_FILE)


def report_skipped(run: RunArguments) -> None:
    """At the end: how many records were skipped in all."""
    log = skip_log(run)
    skipped = log.read()
    if skipped:
        run.say(f"Skipped {len(skipped)} records that cannot be used; {log.path} says what is wrong with each")


def report_long_texts(
    parts: dict[str, TaskDataset],
    tokenizer: Any,
    max_length: int | None,
    suffix_max_length: int | None,
    run: RunArguments,
) -> dict[str, dict[str, int]]:
    """Count, before training, the texts of a JSONL file that will be cut to their limit, and show the first.

    Args:
        parts: examples for training, validation and test. In training targets are cut, in the others answers.
        tokenizer: of the model.
        max_length: tokens of a prompt.
        suffix_max_length: tokens of a target.
        run: says it.

    Returns:
        Numbers of prefixes and suffixes of each part that are too long.
    """
    counts: dict[str, dict[str, int]] = {}
    for name, part in parts.items():
        # one part may serve for both
        if name == "test" and part.source is parts["validation"].source:
            continue
        answers = ("task.max_new_tokens", part.task.max_new_tokens)
        targets = ("suffix_max_length", suffix_max_length) if name == "train" else answers
        limits = {"prefix": ("max_length", max_length), "suffix": targets}
        counts[name], shown = {"prefix": 0, "suffix": 0}, []
        for place, key, text in _texts_of(part.source):
            option, limit = limits[key]
            if limit is None:
                continue
            # the end token is part of both
            tokens = len(tokenizer(text, add_special_tokens=False)["input_ids"]) + 1
            if tokens > limit:
                counts[name][key] += 1
                shown.append(f"  {place}: its {key} has {tokens} tokens and is cut to {option}={limit}")
        if shown:
            found = counts[name]
            run.say(f"{name}: {found['prefix']} prefixes and {found['suffix']} suffixes are longer than the limit:")
            run.say("\n".join(shown[:SHOWN]))
            run.say("  Raise the limit in the configuration or on the command line, or shorten the texts.")
    return counts


def _texts_of(part: Source) -> Iterator[tuple[str, str, str]]:
    """Place, key and text of the prefixes and suffixes of a JSONL file, or of some of its records."""
    source, indices = (part.source, part.indices) if isinstance(part, Subset) else (part, range(len(part)))
    if isinstance(source, JsonlSource):
        for index in indices:
            place = f"{source.path}:{source.line(index)}"
            yield from ((place, key, text) for key, text in source.texts(index).items())
