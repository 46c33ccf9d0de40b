"""Between the steps of SigLIP 2's pretraining: the teacher follows, and losses are logged by their names."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from openpali.data.example import Example
from openpali.modeling.ring_exchange import each_process_alone
from openpali.modeling.self_distillation.modeling_siglip_pretraining import (
    ENTROPIES,
    LOSSES,
    SiglipForPretraining,
)
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.self_distillation.batches import LatePhase
from openpali.recipes.training.progress import LoggedValues
from openpali.recipes.training.validation_loss import batches_of


class TeacherUpdates(TrainerCallback):
    """Starts the teacher at the first step of the late phase, and updates it and the centres after each.

    Args:
        phase: steps with views.
        run: to say when the phase begins.
        decay: of the teacher's moving average.
        last_decay: that it rises to, along a cosine; None for a fixed one.
        momentum: of the centres.
    """

    def __init__(
        self, phase: LatePhase, run: RunArguments, decay: float, last_decay: float | None, momentum: float
    ) -> None:
        self.phase, self.run, self.momentum = phase, run, momentum
        self.decay, self.last_decay = decay, decay if last_decay is None else last_decay

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **kwargs: Any,
    ) -> None:
        """Copy the student, unless a checkpoint has a teacher that has started already."""
        own: SiglipForPretraining = getattr(model, "module", model)
        if state.global_step in self.phase and not own.late_steps:
            own.start_teacher()
            self.run.say(f"step {state.global_step + 1}/{state.max_steps}  self-distillation begins")

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **kwargs: Any,
    ) -> None:
        """Update teacher and centres after a step of the phase."""
        step, own = state.global_step - 1, getattr(model, "module", model)
        if step in self.phase:
            own.update_teacher(self.decay_at(step))
            own.update_centers(self.momentum)

    def decay_at(self, step: int) -> float:
        """The decay after a step of the phase, which is the last one after the last step."""
        share = self.phase.progress(step + 1)
        return self.last_decay - (self.last_decay - self.decay) * (math.cos(math.pi * share) + 1) / 2


class LossParts(LoggedValues):
    """Logs the mean of each loss since the last line, over all processes, as `loss_NAME`; entropies by their names.

    Attributes:
        sums, counts: float[], of each part on this process.
    """

    def __init__(self, run: RunArguments):
        self.run, self.names = run, (*LOSSES, *ENTROPIES)
        self.reset()

    def reset(self) -> None:
        """Forget what was counted."""
        self.sums: dict[str, torch.Tensor] = {}
        self.counts = dict.fromkeys(self.names, 0)

    def loss(self, model: nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        """The model's loss; counts its parts, on their device so that nothing waits for them."""
        output = model(**inputs)
        for name, part in output.parts.items():
            self.sums[name] = self.sums.get(name, 0) + part.float()
            self.counts[name] += 1
        return output.loss

    def log_values(self, state: TrainerState) -> dict[str, float]:
        """The means, and a line on the terminal."""
        means = self.means()
        self.reset()
        shown = "  ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in means.items())
        self.run.say(f"step {state.global_step}/{state.max_steps}  {shown}")
        return {f"loss_{name}" if name in LOSSES else name: value for name, value in means.items()}

    def means(self) -> dict[str, float]:
        """The mean of each part that was computed."""
        device = self.run.device
        rows = [
            torch.stack([self.sums[name].to(device).double(), torch.tensor(float(self.counts[name]), device=device)])
            if name in self.sums
            else torch.zeros(2, dtype=torch.float64, device=device)
            for name in self.names
        ]
        both = torch.stack([row.double() for row in rows])
        if self.run.world_size > 1:
            torch.distributed.all_reduce(both)
        return {name: float(total / count) for name, (total, count) in zip(self.names, both) if count}


@torch.no_grad()
def held_out_parts(
    model: SiglipForPretraining, examples: Sequence[Example], collator: Callable[[list], Any], batch_size: int
) -> dict[str, float]:
    """`loss` and `loss_NAME` on validation examples, without views.

    Args:
        model: in evaluation mode.
        examples: of the validation split.
        collator: from a list of examples to the model's inputs.
        batch_size: examples a batch; the contrastive loss depends on it.
    """
    sums: dict[str, float] = {}
    # every process has all examples, which the contrastive loss would take for others'
    with each_process_alone():
        for size, batch in batches_of(examples, collator, batch_size, model.device):
            output = model(**batch)
            for name, value in {"loss": output.loss, **{f"loss_{k}": v for k, v in output.parts.items()}}.items():
                sums[name] = sums.get(name, 0.0) + size * float(value)
    return {name: value / len(examples) for name, value in sums.items()}
