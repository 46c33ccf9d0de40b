"""A count of validation targets that are longer than `max_new_tokens`."""

from collections.abc import Callable
from typing import Any

from openpali.modeling.token_loss import IGNORE_INDEX


class TargetCounter:
    """A collator that counts targets with more tokens than answers may have.

    Attributes:
        examples: number of targets.
        cut: number of longer ones.
        longest: tokens of the longest.
    """

    def __init__(self, collator: Callable[[list], Any], limit: int) -> None:
        """Count targets with more than `limit` tokens."""
        self.collator, self.limit = collator, limit
        self.examples = self.cut = self.longest = 0

    def __call__(self, items: list) -> Any:
        """The collator's batch."""
        batch = self.collator(items)
        # without the end token
        lengths = ((batch["labels"] != IGNORE_INDEX).sum(1) - 1).tolist()
        self.examples += len(lengths)
        self.cut += sum(length > self.limit for length in lengths)
        self.longest = max(self.longest, *lengths)
        return batch

    def warning(self, name: str) -> str:
        """A warning about a dataset; empty where no answer is cut."""
        if not self.cut:
            return ""
        return (
            f"Warning: {name}: {self.cut} of {self.examples} validation targets have more than max_new_tokens="
            f"{self.limit} tokens, the longest {self.longest}: their answers are cut in scoring. Give the task"
            f" max_new_tokens: {self.longest}."
        )
