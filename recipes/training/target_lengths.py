"""Targets of validation that are longer than answers may be in scoring."""

from collections.abc import Callable
from typing import Any

from openpali.modeling.token_loss import IGNORE_INDEX


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
        """What is to be said of a dataset; nothing where no answer is cut."""
        if not self.cut:
            return ""
        return (
            f"Warning: {name}: {self.cut} of {self.examples} validation targets have more than max_new_tokens="
            f"{self.room} tokens, the longest {self.longest}: their answers are cut in scoring. Give the task"
            f" max_new_tokens: {self.longest}."
        )
