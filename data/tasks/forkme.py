"""Copy this file to write a task of your own. This one asks for the largest thing on an image.

1. Copy it to data/tasks/mytask.py and rename the class.
2. Add `"mytask": "openpali.data.tasks.mytask:MyTask"` to `TASKS` in data/tasks/__init__.py.
3. Write the prompt (`prefix`) and the target (`suffix`) in `example`.
4. Print some examples: `python -c "from openpali.data.mixture import show; show({'name': 'mytask'})"`
5. Train on it: `openpali transfer --config mytask.yaml`, a file with `task: {name: mytask}` and a `source`. That of
   custom data is `{name: custom, path: my-data, kind: detect, split: train}`; records are described in
   data/sources/custom.py.
"""

import random
from dataclasses import dataclass
from typing import Any

from openpali.data.example import Box, Example


@dataclass(frozen=True)
class ForkMe:
    """Name the largest thing. The fields of the dataclass are the options of the YAML file."""

    # your own options come first; every task has these four
    metric: str = "exact_match"
    metric_key: str = "exact_match"
    max_new_tokens: int = 16
    name: str = "forkme"

    def example(self, record: dict[str, Any], rng: random.Random) -> Example | None:
        """Make a question and its answer from a record; take every random choice from `rng`.

        data/sources/builtin/emoji.py describes the records of the built-in images. Return None when a record does not
        suit: the next one takes its place.
        """
        by_size = sorted(record["objects"], key=lambda item: _area(item["box"]), reverse=True)
        # only questions with a clear answer
        if len(by_size) < 2 or _area(by_size[0]["box"]) < 1.3 * _area(by_size[1]["box"]):
            return None
        largest = by_size[0]
        return Example(
            id=record["id"],
            task=self.name,
            images=(record["image"],),
            prefix="answer en what is the largest thing?",
            suffix=largest["concept"],
            references=(largest["concept"],),
            boxes=(largest["box"],),
        )

    def prediction(self, text: str, example: Example) -> str:
        """The metric's prediction, from generated text."""
        return text.strip()

    def reference(self, example: Example) -> list[str]:
        """The metric's reference."""
        return list(example.references)


def _area(box: Box) -> float:
    return (box.x1 - box.x0) * (box.y1 - box.y0)
