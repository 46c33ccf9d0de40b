"""The loss on validation examples, which breaks ties between weights of equal scores."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import nn

from openpali.data.example import Example
from openpali.modeling.ring_exchange import each_process_alone


def batches_of(
    examples: Iterable[Example], collator: Callable[[list], Any], batch_size: int, device: torch.device
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number of examples of each batch, and the batch on its device."""
    rest = iter(examples)
    while items := list(islice(rest, batch_size)):
        batch = collator(items)
        yield len(items), {key: value.to(device) if torch.is_tensor(value) else value for key, value in batch.items()}


@torch.no_grad()
def held_out_loss(
    model: nn.Module,
    examples: Iterable[Example],
    collator: Callable[[list], Any],
    batch_size: int,
    loss: Callable[[nn.Module, dict[str, Any]], torch.Tensor] | None = None,
) -> float:
    """The mean loss over batches, weighted by their numbers of examples; the same on any number of processes.

    Args:
        model: in evaluation mode.
        examples: of the validation split.
        collator: from a list of examples to the model's inputs.
        batch_size: examples a batch; SigLIP's loss depends on it.
        loss: of model and batch; the model's own when None.
    """
    device, total, count = next(model.parameters()).device, 0.0, 0
    # every process has all examples, which the contrastive loss would take for others'
    with each_process_alone():
        for size, batch in batches_of(examples, collator, batch_size, device):
            total += size * float(loss(model, batch) if loss else model(**batch).loss)
            count += size
    return total / max(count, 1)
