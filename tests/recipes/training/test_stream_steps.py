"""Examples of a stream know the optimizer step that they are for, with loader workers and after a resumption."""

import itertools
from typing import Any

import pytest

from openpali.data.example import Example
from openpali.data.streaming.stream import ExampleStream
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.training.sampling import STEP
from openpali.recipes.training.stream_loader import StreamLoader


class Counted:
    """The numbers from 0 up as examples."""

    def __init__(self) -> None:
        self.number = 0

    def __iter__(self) -> "Counted":
        return self

    def __next__(self) -> Example:
        self.number += 1
        return Example(str(self.number - 1), "task", (), "")

    def state_dict(self) -> dict[str, Any]:
        return {"number": self.number}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.number = state["number"]


class Numbers(ExampleStream):
    """A stream of them in every worker."""

    def cursor(self, reader: Any) -> Any: ...

    def digest(self) -> str:
        return ""

    def __iter__(self) -> Any:
        return Counted()


def steps_and_names(examples: list[Example]) -> tuple[set[int], list[str]]:
    return {example.meta[STEP] for example in examples}, [example.id for example in examples]


@pytest.mark.parametrize("workers", [0, 2])
def test_steps_of_batches(workers, tmp_path):
    options = {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2, "max_steps": 10}
    run = RunArguments(output_dir=str(tmp_path), dataloader_num_workers=workers, use_cpu=True, **options)
    loader = StreamLoader(Numbers(0, 1), run, steps_and_names, by_step=True)
    batches = list(itertools.islice(loader, 9))
    assert [steps for steps, _ in batches] == [{number // 2} for number in range(9)]
    whole = iter(loader)
    for _ in range(5):
        next(whole)
    state = loader.state_dict()
    again = StreamLoader(Numbers(0, 1), run, steps_and_names, by_step=True)
    again.load_state_dict(state)
    assert list(itertools.islice(again, 4)) == batches[5:9]
    for one in (loader, again):
        one.close()


@pytest.mark.filterwarnings("error")
def test_a_loader_warns_of_nothing(tmp_path):
    run = RunArguments(output_dir=str(tmp_path), use_cpu=True, per_device_train_batch_size=3, max_steps=10)
    loader = StreamLoader(Numbers(0, 1), run, lambda examples: [example.id for example in examples])
    assert list(itertools.islice(loader, 2)) == [["0", "1", "2"], ["3", "4", "5"]]
    loader.close()
