"""What the parts of PaLI-3 answer with: Transformers' outputs, with image tokens and the loss of each example."""

from dataclasses import dataclass

import torch
from transformers.modeling_outputs import Seq2SeqLMOutput, Seq2SeqModelOutput
from transformers.utils import TransformersKwargs

from .transformers_versions import CacheOutput


class Pali3LossKwargs(TransformersKwargs, total=False):
    """Further options of [`Pali3ForConditionalGeneration`]'s loss."""

    label_smoothing: float | None
    shift_labels: torch.Tensor | None


@dataclass
class Pali3ModelOutput(CacheOutput, Seq2SeqModelOutput):
    """Output of [`Pali3Model`]; `image_hidden_states` are the projected tokens, float[total_images, tokens, D]."""

    image_hidden_states: torch.Tensor | None = None


@dataclass
class Pali3Seq2SeqLMOutput(CacheOutput, Seq2SeqLMOutput):
    """Output of [`Pali3ForConditionalGeneration`]; `example_losses` are float[B], without gradient."""

    image_hidden_states: torch.Tensor | None = None
    example_losses: torch.Tensor | None = None
