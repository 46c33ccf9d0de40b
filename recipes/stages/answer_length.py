"""The number of tokens that answers may have in scoring, fitted to the validation targets."""

import dataclasses
import math
from typing import Any

from openpali.data.tasks import Task
from openpali.recipes.custom_data.text_lengths import LONGEST
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.stages.transfer_tasks import PrefixedTask, TaskData

# tasks whose targets grow with the number of objects in an image
OBJECT_TASKS = ("detect", "segment")


def fit_answer_lengths(tasks: dict[str, TaskData], processor: Any, run: RunArguments) -> None:
    """Raise `max_new_tokens` of detection and segmentation to their targets, unless the configuration gives it.

    Args:
        tasks: with their data, by name.
        processor: of the model; its tokenizer counts.
        run: its `eval_limit` is the number of validation targets that are counted.
    """
    for name, data in tasks.items():
        if not data.default_answer_length or data.task.name not in OBJECT_TASKS:
            continue
        count = min(run.eval_limit, len(data.validation))
        targets = [data.validation[index].suffix for index in range(count)]
        longest = max(map(len, processor.tokenizer(targets, add_special_tokens=False)["input_ids"]), default=0)
        length = min(LONGEST, math.ceil(1.2 * longest) + 4)
        if length <= data.task.max_new_tokens:
            continue
        data.task = with_answer_length(data.task, length)
        for split in (data.validation, data.test):
            split.task = data.task
        run.say(
            f"{name}: answers may have {length} tokens in scoring, since the longest of {count} validation targets has"
            f" {longest}; task.max_new_tokens changes this"
        )


def with_answer_length(task: Any, tokens: int) -> Task:
    """The task with another `max_new_tokens`."""
    if isinstance(task, PrefixedTask):
        return dataclasses.replace(task, task=with_answer_length(task.task, tokens))
    return dataclasses.replace(task, max_new_tokens=tokens)
