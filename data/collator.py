"""From a list of examples to a batch, by one call of the processor."""

from collections.abc import Sequence
from typing import Any

from openpali.data.example import Example
from openpali.data.images.preprocess import with_fast_images
from openpali.data.packing import pack, packed_batch
from openpali.modeling.processing_prefix_suffix import PrefixSuffixProcessor

LIMITS = ("max_length", "suffix_max_length")


class Collator:
    """Turns examples into the inputs of the model, and the labels unless it is for generation."""

    def __init__(
        self,
        processor: Any,
        max_length: int | None = None,
        suffix_max_length: int | None = None,
        generation: bool = False,
        padding_side: str | None = None,
        loss_on_prefix: bool = False,
        pack_length: int | None = None,
        exact_images: bool = True,
    ) -> None:
        """Remember the processor and how to call it.

        Args:
            processor: of PaLI-3 or PaliGemma; what it says of attention (`prefix_attention`) holds for its batches.
            max_length: most tokens of the text prompt; the processor cuts, warns and counts what is longer. An Example
                may have a limit of its own, `meta["max_length"]`.
            suffix_max_length: most tokens of the target, likewise, or `meta["suffix_max_length"]`.
            generation: leave the suffix out.
            padding_side: `left` or `right`; by default the processor's own choice.
            loss_on_prefix: supervise the prefix as well, an ablation of PaliGemma.
            pack_length: tokens of a row in which several examples are packed; None to give each its own.
            exact_images: False to resize with torch, for training: faster, and off by one of 255 levels here and
                there (`openpali.data.images.preprocess`).

        Raises:
            ValueError: if prompts are to be packed, or a model that reads prefix and suffix apart; a limit below 1.
        """
        self.processor = processor
        self.generation = generation
        for key, limit in zip((*LIMITS, "pack_length"), (max_length, suffix_max_length, pack_length), strict=True):
            if limit is not None and limit < 1:
                raise ValueError(f"{key}={limit}: at least 1 token, or None for no limit")
        limits = {"max_length": max_length, "suffix_max_length": suffix_max_length, "padding_side": padding_side}
        self.options = {key: value for key, value in limits.items() if value is not None}
        if loss_on_prefix:
            self.options["loss_on_prefix"] = True
        if pack_length is not None and (generation or "token_type_ids" not in processor.model_input_names):
            raise ValueError("only training sequences of PaliGemma can be packed: leave pack_length out")
        self.pack_length, self.exact_images = pack_length, exact_images

    def __call__(self, examples: Sequence[Example]) -> Any:
        """The processor's batch: `pixel_values: float[images, 3, H, W]`, `input_ids: int[B, L]` and so on."""
        targets = {} if self.generation else {"suffix": [example.suffix for example in examples]}
        form = {"padding": False} if self.pack_length else {"padding": True, "return_tensors": "pt"}
        # other processors tokenise whatever they are given
        ours = isinstance(self.processor, PrefixSuffixProcessor)
        controls = {"controls": [example.controls for example in examples]} if ours else {}
        # made anew each time: the processor's size and limits may change between batches
        processor = with_fast_images(self.processor, self.exact_images)
        batch = processor(
            images=[list(example.images) for example in examples],
            text=[example.prefix for example in examples],
            **form,
            **targets,
            **controls,
            **(self.options | self.own_limits(examples)),
        )
        return self.packed(batch, examples, self.pack_length) if self.pack_length else batch

    def own_limits(self, examples: Sequence[Example]) -> dict[str, list[int | None]]:
        """Limits of each text, where an Example has its own."""
        return {
            option: [example.meta.get(option, self.options.get(option)) for example in examples]
            for option in LIMITS
            if any(option in example.meta for example in examples)
        }

    def packed(self, batch: Any, examples: Sequence[Example], pack_length: int) -> Any:
        """The examples in as few rows as they fit in; all of them are in the batch, whatever its number of rows."""
        lengths = [len(ids) for ids in batch["input_ids"]]
        rows = list(pack(lengths, pack_length, look_ahead=len(lengths)))
        images = [len(example.images) for example in examples]
        return packed_batch(rows, batch, images, self.processor.tokenizer.pad_token_id)
