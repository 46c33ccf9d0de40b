"""From a list of examples to the inputs of the model, by one call of the processor.

    [Example, ...] -> processor(images, text=prefixes, suffix=suffixes) -> pixel_values, input_ids, labels, ...

The same collator serves PaLI-3 and PaliGemma, training and generation (without suffixes). With `pack_length`,
`openpali.data.packing` puts several examples in each row.
"""

from collections.abc import Sequence
from typing import Any

from openpali.data.example import Example
from openpali.data.images.preprocess import with_fast_images
from openpali.data.packing import pack, packed_batch
from openpali.modeling.processing_prefix_suffix import PrefixSuffixProcessor
from openpali.modeling.token_loss import IGNORE_INDEX

LIMITS = ("max_length", "suffix_max_length")


class Collator:
    """Turns examples into the inputs of the model, with labels unless it is for generation."""

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
        """Set the processor and the options of its calls.

        Args:
            processor: of PaLI-3 or PaliGemma; its `prefix_attention` applies to the batches.
            max_length: maximum tokens of the prompt; the processor truncates longer ones with a warning. An Example
                can override it with `meta["max_length"]`.
            suffix_max_length: maximum tokens of the target, likewise with `meta["suffix_max_length"]`.
            generation: leave the suffix out.
            padding_side: `left` or `right`; by default that of the processor.
            loss_on_prefix: supervise the prefix as well, an ablation of PaliGemma.
            pack_length: tokens of a packed row; None for one example a row.
            exact_images: False to resize with torch, for training: faster, and off by one of 255 levels in few values
                (`openpali.data.images.preprocess`).

        Raises:
            ValueError: packing for generation or for an encoder-decoder, or a limit below 1.
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
        """The batch: `pixel_values: float[images, 3, H, W]`, `input_ids, attention_mask, labels: int[B, L]`, ..."""
        targets = {} if self.generation else {"suffix": [example.suffix for example in examples]}
        form = {"padding": False} if self.pack_length else {"padding": True, "return_tensors": "pt"}
        # other processors have no such argument
        ours = isinstance(self.processor, PrefixSuffixProcessor)
        controls = {"controls": [example.controls for example in examples]} if ours else {}
        # wrapped for each batch: the processor's size and limits may change between batches
        processor = with_fast_images(self.processor, self.exact_images)
        batch = processor(
            images=[list(example.images) for example in examples],
            text=[example.prefix for example in examples],
            **form,
            **targets,
            **controls,
            **(self.options | self.own_limits(examples)),
        )
        if not self.generation and any(example.supervised_places is not None for example in examples):
            self.mask_places(batch["labels"], examples)
        return self.packed(batch, examples, self.pack_length) if self.pack_length else batch

    def mask_places(self, labels: Any, examples: Sequence[Example]) -> None:
        """Leave out the loss of location tokens beyond `supervised_places`; `labels`: a row for each example."""
        first, last = self.processor.tokenizer.convert_tokens_to_ids(["<loc0000>", "<loc1023>"])
        for row, example in zip(labels, examples, strict=True):
            if example.supervised_places is not None:
                places = [i for i, token in enumerate(row) if first <= token <= last]
                for i in places[example.supervised_places :]:
                    row[i] = IGNORE_INDEX

    def own_limits(self, examples: Sequence[Example]) -> dict[str, list[int | None]]:
        """Limits of each text, where an Example overrides them."""
        return {
            option: [example.meta.get(option, self.options.get(option)) for example in examples]
            for option in LIMITS
            if any(option in example.meta for example in examples)
        }

    def packed(self, batch: Any, examples: Sequence[Example], pack_length: int) -> Any:
        """All examples in as few rows as possible: int[R, pack_length at most]."""
        lengths = [len(ids) for ids in batch["input_ids"]]
        rows = list(pack(lengths, pack_length, look_ahead=len(lengths)))
        images = [len(example.images) for example in examples]
        return packed_batch(rows, batch, images, self.processor.tokenizer.pad_token_id)
