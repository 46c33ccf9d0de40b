"""Tasks: one short file each, from a record to an `Example`. Copy forkme.py to write your own."""

import random
from typing import Any, Protocol

from openpali.data.example import Example
from openpali.data.sources import build

TASKS = {
    "answer": "openpali.data.tasks.answer:Answer",
    "caption": "openpali.data.tasks.caption:Caption",
    "custom": "openpali.data.tasks.custom:CustomAnswers",
    "detect": "openpali.data.tasks.detect:Detect",
    "forkme": "openpali.data.tasks.forkme:ForkMe",
    "grounded_caption": "openpali.data.tasks.grounded_caption:GroundedCaption",
    "multiple_choice": "openpali.data.tasks.multiple_choice:MultipleChoice",
    "object_aware": "openpali.data.tasks.object_aware:ObjectAware",
    "ocr": "openpali.data.tasks.ocr:Ocr",
    "plain": "openpali.data.tasks.plain:Plain",
    "question": "openpali.data.tasks.question:Question",
    "red_box": "openpali.data.tasks.red_box:RedBox",
    "refer": "openpali.data.tasks.refer:Refer",
    "science_qa": "openpali.data.tasks.science_qa:ScienceQa",
    "segment": "openpali.data.tasks.segment:Segment",
    "splitcap": "openpali.data.tasks.splitcap:SplitCap",
    "vq2a": "openpali.data.tasks.vq2a:Vq2a",
    "vqa": "openpali.data.tasks.vqa:Vqa",
}


class Task(Protocol):
    """The interface of a task.

    Attributes:
        name: of the task in tables and reports.
        metric: folder of its metric under eval/metrics.
        metric_key: the value of that metric by which checkpoints are compared; larger is better.
        max_new_tokens: maximum tokens to generate.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def metric(self) -> str: ...  # noqa: D102
    @property
    def metric_key(self) -> str: ...  # noqa: D102
    @property
    def max_new_tokens(self) -> int: ...  # noqa: D102

    def example(self, record: dict[str, Any], rng: random.Random) -> Example | None:
        """The example of a record, with random choices from `rng`; None when the record does not suit."""
        ...

    def prediction(self, text: str, example: Example) -> Any:
        """The metric's prediction of an example, from generated text."""
        ...

    def reference(self, example: Example) -> Any:
        """The metric's reference of an example."""
        ...


def load_task(spec: dict[str, Any]) -> Task:
    """The task that a dict describes: `{"name": "answer", "kinds": ["what"]}`, its options beside its name.

    Raises:
        ValueError: an unknown name or option; the message gives the nearest known one.
    """
    return build(spec, TASKS, "task")
