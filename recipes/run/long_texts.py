"""A report of the texts of JSONL files that are longer than the limits of a run."""

from collections.abc import Iterator
from typing import Any

from openpali.data.mixture import TaskDataset
from openpali.data.sources import Source
from openpali.data.sources.jsonl import JsonlSource
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.run.datasets import SHOWN, Subset


def report_long_texts(
    splits: dict[str, TaskDataset],
    tokenizer: Any,
    max_length: int | None,
    suffix_max_length: int | None,
    run: RunArguments,
) -> dict[str, dict[str, int]]:
    """Count the texts of JSONL files that will be cut to their limit, and print the first.

    Args:
        splits: train, validation and test. Limits of suffixes are those of targets in training, else of answers.
        tokenizer: of the model.
        max_length: tokens of a prompt.
        suffix_max_length: tokens of a target.
        run: prints them.

    Returns:
        Numbers of prefixes and suffixes of each split that are too long.
    """
    counts: dict[str, dict[str, int]] = {}
    for name, split in splits.items():
        # one split may serve as both
        if name == "test" and split.source is splits["validation"].source:
            continue
        answers = ("task.max_new_tokens", split.task.max_new_tokens)
        targets = ("suffix_max_length", suffix_max_length) if name == "train" else answers
        limits = {"prefix": ("max_length", max_length), "suffix": targets}
        counts[name], shown = {"prefix": 0, "suffix": 0}, []
        for place, key, text in texts_of(split.source):
            option, limit = limits[key]
            if limit is None:
                continue
            # with the end token
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


def texts_of(split: Source) -> Iterator[tuple[str, str, str]]:
    """File and line, key, and text of the prefixes and suffixes of a JSONL split."""
    source, indices = (split.source, split.indices) if isinstance(split, Subset) else (split, range(len(split)))
    if isinstance(source, JsonlSource):
        for index in indices:
            place = f"{source.path}:{source.line(index)}"
            yield from ((place, key, text) for key, text in source.texts(index).items())
