from collections import Counter

import pytest

from openpali.data.example import Example
from openpali.data.files.config import ConfigError
from openpali.recipes.flexible.step_draw import StepDraw
from openpali.recipes.training.sampling import RunSampler, SteppedDataset, with_step


def example(name="a"):
    return Example(name, "task", (), "", meta={"kept": 1})


def test_a_draw_depends_on_seed_and_step_alone_and_is_even():
    draw = StepDraw("sequence_lengths", (16, 36, 64), 3)
    drawn = [draw.at(step) for step in range(3000)]
    assert drawn == [StepDraw("sequence_lengths", (16, 36, 64), 3).at(step) for step in range(3000)]
    assert drawn != [StepDraw("sequence_lengths", (16, 36, 64), 4).at(step) for step in range(3000)]
    assert all(900 < count < 1100 for count in Counter(drawn).values())
    # neighbouring steps are independent
    pairs = Counter(zip(drawn, drawn[1:]))
    assert len(pairs) == 9
    assert min(pairs.values()) > 250


def test_examples_outside_training_draw_nothing():
    draw = StepDraw("patch_sizes", (8, 16), 0)
    assert draw.of([example()]) is None
    assert draw.of([with_step(example(), 5)]) == draw.at(5)


def test_no_choice_is_told():
    for choices in ((), (0, 4)):
        with pytest.raises(ConfigError, match="patch_sizes: numbers from 1 up"):
            StepDraw("patch_sizes", choices, 0)


@pytest.mark.parametrize("epochs", [False, True])
def test_examples_know_their_step(epochs):
    plain = list(RunSampler(7, 24, 1, epochs))
    places = list(RunSampler(7, 24, 1, epochs, step_size=8))
    assert [place.item for place in places] == plain
    assert [place.step for place in places] == [0] * 8 + [1] * 8 + [2] * 8
    data = SteppedDataset({item: example(str(item)) for item in plain})
    found = data[places[9]]
    assert (found.id, found.meta) == (str(places[9].item), {"kept": 1, "optimizer_step": 1})
