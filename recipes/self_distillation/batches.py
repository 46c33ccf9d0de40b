"""Examples and batches of SigLIP 2's pretraining: pairs, texts of the decoder, and in the late phase views.

An example is a pair with a text that the decoder writes: the pair's own as a caption, or a box or a text of a box
where the record has objects. One of them is drawn for each example.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from openpali.data.example import Example
from openpali.data.tasks import Task
from openpali.recipes.captioning.batches import DRAW, CaptionInputs
from openpali.recipes.self_distillation.views import MIRRORED, Views, may_be_mirrored
from openpali.recipes.stages.image_text_pairs import PairCollator, Pairs
from openpali.recipes.stages.task_bases import EncoderTask
from openpali.recipes.training.sampling import STEP

WRITTEN = "written"
CAPTION = "caption"


@dataclass(frozen=True)
class LatePhase:
    """The last steps of a run, in which there are views.

    Attributes:
        first: its first step, counted from 0.
        steps: of the run.
    """

    first: int
    steps: int

    @classmethod
    def of(cls, share: float, steps: int) -> "LatePhase":
        """The last `share` of the steps, rounded to whole ones."""
        return cls(steps - round(share * steps), steps)

    def __contains__(self, step: Any) -> bool:
        return step is not None and self.first <= step < self.steps

    def progress(self, step: int) -> float:
        """How much of it lies before a step, from 0 on."""
        return (step - self.first) / max(1, self.steps - self.first)


class WrittenPairs(EncoderTask):
    """A task: a pair, a text for the decoder in `meta`, and a number that decides everything random in its batch.

    Args:
        pairs: the task of the contrastive loss.
        located: tasks with boxes, by name.
        shares: of the tasks, `caption` among them; examples without boxes get captions.
    """

    draws_every_epoch = True

    def __init__(self, pairs: Pairs, located: dict[str, Task], shares: dict[str, float]):
        self.pairs, self.located, self.shares, self.name = pairs, located, shares, pairs.name

    def example(self, record: dict[str, Any], rng: random.Random) -> Example | None:
        """The pair; `meta` has task, prefix, text and allowed control tokens of what the decoder writes."""
        pair = self.pairs.example(record, rng)
        if pair is None:
            return None
        name = rng.choices(list(self.shares), list(self.shares.values()))[0]
        found = self.with_box(name, record, rng)
        written = [CAPTION, "", pair.suffix, "none"]
        if found is not None:
            written = [found.task, found.prefix, found.suffix, found.controls]
        meta = {WRITTEN: written, MIRRORED: may_be_mirrored(record, self.pairs.languages), DRAW: rng.getrandbits(62)}
        return replace(pair, meta=pair.meta | meta)

    def with_box(self, name: str, record: dict[str, Any], rng: random.Random) -> Example | None:
        """An example of a task with boxes; None for captions, or where the record does not suit the task."""
        if name == CAPTION or not record.get("objects"):
            return None
        try:
            return self.located[name].example(record, rng)
        except KeyError:
            # objects without names or sentences in the language
            return None


def decoder_example(example: Example) -> Example:
    """What the decoder writes about an example's image."""
    task, prefix, text, controls = example.meta[WRITTEN]
    return Example(example.id, task, (), prefix, text, controls=controls, meta={DRAW: example.meta[DRAW]})


class PretrainingCollator:
    """Collates examples of `WrittenPairs` into inputs of `SiglipForPretraining`.

    Args:
        pairs: images, texts and keys.
        inputs: texts of the decoder.
        views: None without self-distillation.
        phase: steps with views.
    """

    def __init__(self, pairs: PairCollator, inputs: CaptionInputs, views: Views | None, phase: LatePhase):
        self.pairs, self.inputs, self.views, self.phase = pairs, inputs, views, phase
        self.by_step = views is not None

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        """The batch; without views outside training and before the late phase."""
        batch = self.pairs(examples) | self.inputs([decoder_example(example) for example in examples])
        if self.views is not None and examples[0].meta.get(STEP) in self.phase:
            batch |= self.views(examples)
        return batch
