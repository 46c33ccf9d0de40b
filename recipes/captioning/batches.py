"""Batches of a caption decoder: tokens, the drawn mode of each text, masked inputs, and labels.

A task draws one number for each example (`DrawnTask`), and everything random here follows from it: modes and masked
positions do not depend on the batch, the process, or where a run was resumed.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from openpali.data.example import Example
from openpali.data.files.config import ConfigError
from openpali.data.images.preprocess import FastImageProcessor
from openpali.data.tasks import Task
from openpali.modeling.captioner.caption_tokens import CaptionTokens
from openpali.modeling.captioner.configuration_captioner import CaptionDecoderConfig
from openpali.modeling.control_tokens import Controls
from openpali.recipes.stages.task_bases import WrappedTask

DRAW = "caption_draw"
# tasks that read or write a box
LOCATED = ("refer", "grounded_caption")


class DrawnTask(WrappedTask):
    """A task whose examples carry a drawn number in `meta`, another one in each epoch."""

    draws_every_epoch = True

    def __init__(self, task: Task):
        self.task = task

    def example(self, record: dict[str, Any], rng: random.Random) -> Example | None:
        """The task's example; its number is drawn last, so that it changes no other choice."""
        example = self.task.example(record, rng)
        return None if example is None else replace(example, meta=example.meta | {DRAW: rng.getrandbits(62)})


@dataclass(frozen=True)
class Modes:
    """How modes are drawn.

    Attributes:
        masked_pred_prob: share of texts that are predicted in parallel; the others are causal.
        masking_ratio: share of the inputs that are masked in parallel texts, of all positions, padding included.
        located_masked_pred_prob: the share among examples of the tasks `LOCATED`.
    """

    masked_pred_prob: float = 0.75
    masking_ratio: float = 1.0
    located_masked_pred_prob: float = 0.0

    def __post_init__(self) -> None:
        for key, value in vars(self).items():
            if not 0 <= value <= 1:
                raise ConfigError(f"{key}={value}: it is a share, from 0 to 1")

    @property
    def needs_mask(self) -> bool:
        """Whether any text is predicted in parallel."""
        return max(self.masked_pred_prob, self.located_masked_pred_prob) > 0

    def masked(self, example: Example, prefix: int, length: int) -> list[int] | None:
        """Masked positions of an example, never in its prefix; None for a causal one.

        Args:
            example: with its drawn number; causal without one.
            prefix: tokens of its prefix.
            length: of every text, padding included.
        """
        if DRAW not in example.meta:
            return None
        rng = random.Random(example.meta[DRAW])
        share = self.located_masked_pred_prob if example.task in LOCATED else self.masked_pred_prob
        if not rng.random() < share:
            return None
        return [place for place in rng.sample(range(length), int(self.masking_ratio * length)) if place >= prefix]


CAUSAL = Modes(0.0)


class CaptionInputs:
    """Texts of examples as the arguments of `CaptionDecoder.example_losses`.

    Args:
        tokenizer: any with an end token.
        config: of the decoder.
        modes: how texts are predicted; `CAUSAL` for evaluation.
        text_length: tokens of a text, padding included; all of the decoder's positions when None.

    Raises:
        ConfigError: the decoder knows no mask, or has fewer positions.
    """

    def __init__(
        self, tokenizer: Any, config: CaptionDecoderConfig, modes: Modes, text_length: int | None = None
    ) -> None:
        if modes.needs_mask and not config.mask_token:
            raise ConfigError("masked_pred_prob: this decoder was trained without a mask; set it to 0")
        self.config, self.modes = config, modes
        try:
            self.tokens = CaptionTokens(tokenizer, config, text_length)
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def __call__(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """`decoder_input_ids` and `labels`: int[B, L], `label_weights`: float[B, L], `parallel`: bool[B].

        Prefixes are given and not predicted: their weight is 0, and they are not masked. `parallel` is left out where
        all texts are causal.
        """
        controls: list[Controls] = [example.controls for example in examples]
        prefixes, texts = [example.prefix for example in examples], [example.suffix for example in examples]
        labels, weights = self.tokens(prefixes, texts, controls)
        inputs = labels.roll(1, 1)
        inputs[:, 0] = int(self.config.pad_token_id or 0)
        parallel = torch.zeros(len(examples), dtype=torch.bool)
        for row, example in enumerate(examples):
            # the first predicted position; of an example without any the whole text is given
            prefix = int(weights[row].argmax()) if weights[row].any() else labels.shape[1]
            masked = self.modes.masked(example, prefix, labels.shape[1])
            if masked is not None:
                parallel[row] = True
                inputs[row] = labels[row].index_fill(0, torch.tensor(masked).long(), int(self.config.vocab_size))
        batch = {"decoder_input_ids": inputs, "labels": labels, "label_weights": weights}
        return batch | {"parallel": parallel} if self.modes.needs_mask else batch

    def length(self, example: Example) -> int:
        """Tokens of an example that is not cut."""
        return self.tokens.length(example.prefix, example.suffix, example.controls)


class CaptionCollator:
    """Collates examples into inputs of `Captioner`.

    Args:
        image_processor: of the model.
        inputs: makes the decoder's.
    """

    def __init__(self, image_processor: Any, inputs: CaptionInputs):
        self.images, self.inputs = FastImageProcessor(image_processor, exact=False), inputs

    def __call__(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """`pixel_values`: float[B, 3, H, W] in [-1, 1], and what `CaptionInputs` makes."""
        images = [example.images[0] for example in examples]
        return {"pixel_values": self.images(images, return_tensors="pt")["pixel_values"], **self.inputs(examples)}
