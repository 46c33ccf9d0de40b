"""From a list of examples to a batch, by one call of the processor."""

from collections.abc import Sequence
from typing import Any

from openpali.data.example import Example


class Collator:
    """Turns examples into the inputs of the model, and the labels unless it is for generation."""

    def __init__(
        self,
        processor: Any,
        max_length: int | None = None,
        suffix_max_length: int | None = None,
        generation: bool = False,
        padding_side: str | None = None,
    ) -> None:
        """Remember the processor and how to call it.

        Args:
            processor: of PaLI-3 or PaliGemma.
            max_length: most tokens of the text prompt; the processor cuts, warns and counts what is longer.
            suffix_max_length: most tokens of the target, likewise.
            generation: leave the suffix out.
            padding_side: `left` or `right`; by default the tokenizer's own.
        """
        self.processor = processor
        self.generation = generation
        limits = {"max_length": max_length, "suffix_max_length": suffix_max_length, "padding_side": padding_side}
        self.options = {key: value for key, value in limits.items() if value is not None}

    def __call__(self, examples: Sequence[Example]) -> Any:
        """The processor's batch: `pixel_values: float[images, 3, H, W]`, `input_ids: int[B, L]` and so on."""
        targets = {} if self.generation else {"suffix": [example.suffix for example in examples]}
        return self.processor(
            images=[list(example.images) for example in examples],
            text=[example.prefix for example in examples],
            return_tensors="pt",
            padding=True,
            **targets,
            **self.options,
        )
