"""Base classes of tasks that exist in single stages: those without generated text, and wrappers of other tasks."""

from typing import Any

from openpali.data.example import Example
from openpali.data.tasks import Task


class EncoderTask:
    """A task of an image encoder, which generates no text."""

    metric = ""
    metric_key = ""
    max_new_tokens = 0

    def prediction(self, text: str, example: Example) -> str:
        """The text; nothing is generated."""
        return text

    def reference(self, example: Example) -> str:
        """The suffix; nothing is generated."""
        return example.suffix


class WrappedTask:
    """A task that changes the examples of another task."""

    task: Task

    @property
    def name(self) -> str:
        """The wrapped task's."""
        return self.task.name

    @property
    def metric(self) -> str:
        """The wrapped task's."""
        return self.task.metric

    @property
    def metric_key(self) -> str:
        """The wrapped task's."""
        return self.task.metric_key

    @property
    def max_new_tokens(self) -> int:
        """The wrapped task's."""
        return self.task.max_new_tokens

    def prediction(self, text: str, example: Example) -> Any:
        """The wrapped task's."""
        return self.task.prediction(text, example)

    def reference(self, example: Example) -> Any:
        """The wrapped task's."""
        return self.task.reference(example)
