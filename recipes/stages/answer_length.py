"""Tokens that answers may have in scoring, held against those that the right answers have."""

import dataclasses
import math
from typing import Any

from openpali.data.tasks import Task
from openpali.recipes.custom_data.text_lengths import LONGEST
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.stages.transfer_tasks import Member, NamedTask

# their targets are as long as images are full
OF_MANY_OBJECTS = ("detect", "segment")


def give_room(members: dict[str, Member], processor: Any, run: RunArguments) -> None:
    """Let answers be as long as boxes and masks need, where the configuration does not say how long.

    Args:
        members: tasks with their data, by name.
        processor: whose tokenizer counts.
        run: its `eval_limit` says how many validation examples are looked at.
    """
    for name, member in members.items():
        if not member.default_room or member.task.name not in OF_MANY_OBJECTS:
            continue
        count = min(run.eval_limit, len(member.validation))
        targets = [member.validation[index].suffix for index in range(count)]
        longest = max(map(len, processor.tokenizer(targets, add_special_tokens=False)["input_ids"]), default=0)
        room = min(LONGEST, math.ceil(1.2 * longest) + 4)
        if room <= member.task.max_new_tokens:
            continue
        member.task = with_room(member.task, room)
        for data in (member.validation, member.test):
            data.task = member.task
        run.say(
            f"{name}: answers may have {room} tokens in scoring, since the longest of {count} validation targets has"
            f" {longest}; task.max_new_tokens says otherwise"
        )


def with_room(task: Any, tokens: int) -> Task:
    """The task, whose answers may have so many tokens."""
    if isinstance(task, NamedTask):
        return dataclasses.replace(task, task=with_room(task.task, tokens))
    return dataclasses.replace(task, max_new_tokens=tokens)
