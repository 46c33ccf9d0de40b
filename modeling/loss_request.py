"""What a caller asks of the loss beside its labels, and the fields of a model's output that answer it.

A trainer that gives `num_items_in_batch`, its number of supervised tokens over all accumulation steps, gets the mean
over these tokens in place of the mean over examples.

Shapes: `B` examples (packed: rows), `L` tokens of a sequence, `T` supervised tokens, `D` width of the text model.
"""

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn
from transformers.utils import TransformersKwargs

from .token_loss import IGNORE_INDEX, example_losses, token_cross_entropy, token_owners


class LossKwargs(TransformersKwargs, total=False):
    """Further options of a model's forward, beside `output_attentions`, `output_hidden_states` and `return_dict`.

    They are not arguments of their own, since the Trainer takes every argument with "label" in its name for a label.

    Attributes:
        label_smoothing: ε of the loss; the configuration's, else 0, when left out.
        shift_labels: int[B, L], in place of `labels`: position i is predicted at i. Decoder-only models alone.
        num_items_in_batch: supervised tokens of all accumulation steps and processes. The loss is then the sum of the
            token losses over this number, so that the sum over the steps is the mean over all tokens, as Transformers'
            Trainer and TRL expect; without it, the mean over examples.
        token_losses: whether to return the loss of each token, `token_losses`, with its gradient; label smoothing is
            then left out.
        second_labels: int[B, L], other targets of some positions of `labels`, -100 elsewhere, whose losses are
            `second_losses`; with `token_losses` alone.
    """

    label_smoothing: float | None
    shift_labels: torch.Tensor | None
    num_items_in_batch: torch.Tensor | int | None
    token_losses: bool
    second_labels: torch.Tensor | None


@dataclass
class LossRequest:
    """The options of `LossKwargs` that the loss itself takes."""

    label_smoothing: float | None = None
    num_items_in_batch: torch.Tensor | int | None = None
    token_losses: bool = False
    second_labels: torch.Tensor | None = None

    @classmethod
    def taken_from(cls, kwargs: Any) -> "LossRequest":
        """The options in a forward's `kwargs`, which are taken out of it."""
        return cls(**{field.name: kwargs.pop(field.name) for field in fields(cls) if field.name in kwargs})

    def output(
        self,
        hidden_states: torch.Tensor,
        head: nn.Module,
        labels: torch.Tensor,
        label_smoothing: float = 0.0,
        softcap: float | None = None,
        example_ids: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Fields of a model's output.

        Args:
            hidden_states: float[B, L, D]; position i predicts `labels[:, i]`.
            head: see `example_losses`.
            labels: int[B, L], -100 where there is nothing to predict.
            label_smoothing: used unless the caller gave another.
            softcap: see `example_losses`.
            example_ids: see `example_losses`.

        Returns:
            `loss`: float[]; `example_losses`: float[examples], without gradient; where they were requested,
            `token_losses` and `second_losses`: float[B, L], at the position that predicts, 0 without a label.
        """
        if self.token_losses:
            found = {"token_losses": token_losses(hidden_states, head, labels, softcap)}
            if self.second_labels is not None:
                found["second_losses"] = token_losses(hidden_states, head, self.second_labels, softcap)
            losses = found["token_losses"].sum(1) / (labels != IGNORE_INDEX).sum(1).clamp(min=1)
        else:
            epsilon = label_smoothing if self.label_smoothing is None else self.label_smoothing
            found, losses = {}, example_losses(hidden_states, head, labels, epsilon, softcap, example_ids)
        return found | {"loss": self.mean(losses, labels, example_ids), "example_losses": losses.detach()}

    def mean(self, losses: torch.Tensor, labels: torch.Tensor, example_ids: torch.Tensor | None) -> torch.Tensor:
        """The loss, float[], from that of each example, float[examples]."""
        if self.num_items_in_batch is None:
            return losses.mean()
        # of each example
        tokens = torch.bincount(token_owners(labels, example_ids), minlength=len(losses))
        # one number for each replica under DataParallel
        items = torch.as_tensor(self.num_items_in_batch, device=losses.device).reshape(-1)[0]
        return (losses * tokens).sum() / items


def token_losses(
    hidden_states: torch.Tensor, head: nn.Module, labels: torch.Tensor, softcap: float | None = None
) -> torch.Tensor:
    """The loss of each token, float[B, L], 0 where there is no label; arguments as of `example_losses`."""
    supervised = labels != IGNORE_INDEX  # [B, L]
    losses = token_cross_entropy(hidden_states[supervised], head, labels[supervised], softcap=softcap)  # [T]
    return losses.new_zeros(labels.shape).masked_scatter(supervised, losses)
