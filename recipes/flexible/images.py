"""Images of a batch as inputs of a tower: squares, squares with a drawn patch size, or NaFlex sequences."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from openpali.data.example import Example
from openpali.data.images.naflex import NaFlexImageProcessor
from openpali.data.images.preprocess import FastImageProcessor
from openpali.modeling.flexible_patches import at_patch_size
from openpali.recipes.flexible.step_draw import StepDraw
from openpali.recipes.training.trainer import Loss

PATCH_SIZE = "patch_size"


class SquareImages:
    """Images of one size, squashed to a square."""

    by_step = False

    def __init__(self, image_processor: Any) -> None:
        self.processor = FastImageProcessor(image_processor, exact=False)

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        """`pixel_values`: float[n, 3, H, W] in [-1, 1]."""
        images = [example.images[0] for example in examples]
        return {"pixel_values": self.processor(images, return_tensors="pt")["pixel_values"]}


class DrawnPatches(SquareImages):
    """The same with the patch size of the step, for `at_drawn_patch_size`."""

    by_step = True

    def __init__(self, image_processor: Any, draw: StepDraw) -> None:
        super().__init__(image_processor)
        self.draw = draw

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        """`pixel_values`, and in training `patch_size`: an int."""
        drawn = self.draw.of(examples)
        return super().__call__(examples) | ({} if drawn is None else {PATCH_SIZE: drawn})


class NaFlexImages:
    """Images as sequences of patches, as long as the step draws; outside training as long as the processor says."""

    by_step = True

    def __init__(self, image_processor: NaFlexImageProcessor, draw: StepDraw) -> None:
        self.processor, self.draw = image_processor, draw

    def __call__(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """`pixel_values`: float[n, S, 3p²], `pixel_attention_mask`: int[n, S], `spatial_shapes`: int[n, 2]."""
        length = self.draw.of(examples) or self.processor.max_num_patches
        images = [example.images[0] for example in examples]
        options: Any = {"max_num_patches": length, "return_tensors": "pt"}
        return dict(self.processor(images, **options).items())


def at_drawn_patch_size(loss: Loss) -> Loss:
    """The loss of a batch of `DrawnPatches`, computed with patches of the size that it holds."""

    def drawn_loss(model: nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        rest = {key: value for key, value in inputs.items() if key != PATCH_SIZE}
        with at_patch_size(model, inputs.get(PATCH_SIZE)):
            return loss(model, rest)

    return drawn_loss
