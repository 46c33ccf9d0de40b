"""Copy this file to write a task of your own. This one asks which thing on an image is the largest.

1. Copy it to data/tasks/mytask.py and rename the class.
2. Add `"mytask": "openpali.data.tasks.mytask:MyTask"` to `TASKS` in data/tasks/__init__.py.
3. Write what to ask (`prefix`) and what to answer (`suffix`) in `example`.
4. Look at it: `python -c "from openpali.data.mixture import show; show({'name': 'mytask'})"`
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
    """Naming the largest thing. A dataclass's fields are the options that a YAML file can set."""

    # options of your own come first; these four every task has
    metric: str = "exact_match"
    metric_key: str = "exact_match"
    max_new_tokens: int = 16
    name: str = "forkme"

    def example(self, record: dict[str, Any], rng: random.Random) -> Example | None:
        """From a record to a question and its answer; draw every random choice from `rng`.

        A record of the built-in images is described in data/sources/builtin/emoji.py; your source's is what you make
        it. Return None when the record does not suit: the next one takes its place.
        """
        by_size = sorted(record["objects"], key=lambda item: _area(item["box"]), reverse=True)
        # a question without a clear answer teaches nothing
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
        """What the metric compares, from the text that the model wrote."""
        return text.strip()

    def reference(self, example: Example) -> list[str]:
        """What the metric compares it with."""
        return list(example.references)


def _area(box: Box) -> float:
    return (box.x1 - box.x0) * (box.y1 - box.y0)
