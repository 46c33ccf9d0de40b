"""The loss on held-out examples, by which weights of equal scores are told apart."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import nn

from openpali.data.example import Example


def batches_of(
    examples: Iterable[Example], collator: Callable[[list], Any], batch_size: int, device: torch.device
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number of examples of each batch, and the batch on its device."""
    rest = iter(examples)
    while some := list(islice(rest, batch_size)):
        batch = collator(some)
        yield len(some), {key: value.to(device) if torch.is_tensor(value) else value for key, value in batch.items()}


@torch.no_grad()
def held_out_loss(
    model: nn.Module,
    examples: Iterable[Example],
    collator: Callable[[list], Any],
    batch_size: int,
    loss: Callable[[nn.Module, dict[str, Any]], torch.Tensor] | None = None,
) -> float:
    """The mean over batches, weighed by their examples.

    Args:
        model: in evaluation mode.
        examples: that the model does not train on.
        collator: a list of them to the model's inputs.
        batch_size: examples a batch; SigLIP's loss depends on it.
        loss: given model and batch; what the model computes when None.
    """
    device, total, count = next(model.parameters()).device, 0.0, 0
    for size, batch in batches_of(examples, collator, batch_size, device):
        total += size * float(loss(model, batch) if loss else model(**batch).loss)
        count += size
    return total / max(count, 1)
