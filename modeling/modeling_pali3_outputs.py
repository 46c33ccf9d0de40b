"""Outputs of PaLI-3: Transformers' output classes, with image tokens and the loss of each example.

Shapes: `B` examples, `N` images, `P` tokens of an image, `S` target tokens,
`D` width of the text model.
"""

from dataclasses import dataclass

import torch
from transformers.modeling_outputs import Seq2SeqLMOutput, Seq2SeqModelOutput

from .transformers_versions import CacheOutput


@dataclass
class Pali3ModelOutput(CacheOutput, Seq2SeqModelOutput):
    """Output of [`Pali3Model`]; `image_hidden_states` are the projected tokens, float[N, P, D]."""

    image_hidden_states: torch.Tensor | None = None


@dataclass
class Pali3Seq2SeqLMOutput(CacheOutput, Seq2SeqLMOutput):
    """Output of [`Pali3ForConditionalGeneration`]; `example_losses` are float[B], without gradient.

    `token_losses` and `second_losses`: float[B, S], where they are requested (`LossKwargs` in loss_request.py).
    """

    image_hidden_states: torch.Tensor | None = None
    example_losses: torch.Tensor | None = None
    token_losses: torch.Tensor | None = None
    second_losses: torch.Tensor | None = None
