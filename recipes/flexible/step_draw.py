"""What an optimizer step draws: a sequence length or a patch size, the same on all processes and when resumed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from openpali.data.example import Example
from openpali.data.files.config import ConfigError
from openpali.recipes.training.sampling import STEP


@dataclass(frozen=True)
class StepDraw:
    """One of several numbers for each step, evenly, from the seed and the step alone.

    Attributes:
        name: of the option, which separates draws of one seed.
        choices: numbers from 1 up; a repeated one is drawn more often.
        seed: of the run.
    """

    name: str
    choices: tuple[int, ...]
    seed: int

    def __post_init__(self) -> None:
        if not self.choices or min(self.choices) < 1:
            raise ConfigError(f"{self.name}: numbers from 1 up, not {list(self.choices)}")

    def at(self, step: int) -> int:
        """The number of a 0-based step."""
        return random.Random(f"{self.name}-{self.seed}-{step}").choice(self.choices)

    def of(self, examples: Sequence[Example]) -> int | None:
        """The number of the step that examples are for; None outside training."""
        step = examples[0].meta.get(STEP)
        return None if step is None else self.at(step)
