"""Tokens that answers may have in scoring, held against those that the right answers have."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from openpali.data.tasks import Task
from openpali.modeling.token_loss import IGNORE_INDEX
from openpali.recipes.arguments import RunArguments
from openpali.recipes.mix import Member, NamedTask
from openpali.recipes.text_lengths import LONGEST

# their targets are as long as pictures are full
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


class TargetCounter:
    """A collator that counts targets with more tokens than answers may have.

    Attributes:
        examples: seen.
        cut: of them those that are longer.
        longest: tokens of the longest.
    """

    def __init__(self, collator: Callable[[list], Any], room: int) -> None:
        """Count for a task whose answers have `room` tokens at most."""
        self.collator, self.room = collator, room
        self.examples = self.cut = self.longest = 0

    def __call__(self, items: list) -> Any:
        """The collator's batch."""
        batch = self.collator(items)
        # without the end token
        lengths = ((batch["labels"] != IGNORE_INDEX).sum(1) - 1).tolist()
        self.examples += len(lengths)
        self.cut += sum(length > self.room for length in lengths)
        self.longest = max(self.longest, *lengths)
        return batch

    def complaint(self, name: str) -> str:
        """What is to be said of a data set; nothing where no answer is cut."""
        if not self.cut:
            return ""
        return (
            f"Warning: {name}: {self.cut} of {self.examples} validation targets have more than max_new_tokens="
            f"{self.room} tokens, the longest {self.longest}: their answers are cut in scoring. Give the task"
            f" max_new_tokens: {self.longest}."
        )
