"""Processor of PaLI-3: images, prefixes and suffixes in, model inputs and labels out.

The prefix, behind the image placeholders, is the encoder's input; the suffix with its end token is the decoder's
target. The call is that of `PaliGemmaProcessor`, so that one collator serves both families.

Shapes: `B` examples, `L` tokens of a sequence, `S` suffix tokens.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from transformers import AutoImageProcessor
from transformers.processing_utils import ProcessingKwargs, TextKwargs

from .control_tokens import controls_of_each
from .processing_chat import CHAT_TEMPLATE, take_chat_template
from .processing_offsets import Span, expand_spans
from .processing_prefix_suffix import PrefixSuffixProcessor, limit_of_each, longest_limit, tokens_per_image
from .processing_tokenizer import IMAGE_TOKEN, extended_tokenizer
from .token_loss import IGNORE_INDEX


class Pali3TextKwargs(TextKwargs, total=False):
    """Text options: `max_length` bounds the prefix, `suffix_max_length` the suffix, both in tokens.

    `controls` says which control tokens texts may hold: "all" (default), "places" (locations and segments, while
    `<image>` and other special tokens are letters), or "none"; one value, or one for each text.
    """

    max_length: int | Sequence[int | None] | None
    suffix_max_length: int | Sequence[int | None] | None
    controls: str | Sequence[str] | None


class Pali3ProcessorKwargs(ProcessingKwargs, total=False):
    """Options of `Pali3Processor`, by modality."""

    text_kwargs: Pali3TextKwargs


class Pali3Processor(PrefixSuffixProcessor):
    """One call from images and texts to a batch.

    Args:
        image_processor: of SigLIP; its size is the model's.
        tokenizer: any tokenizer that has `<image>` as one token.
        chat_template: Jinja template of the messages form; `processing_chat`'s when left out.
        image_seq_length: tokens of one image, `(image_size / patch_size) ** 2`, or the most of one (NaFlex).

    Attributes:
        truncation_counts: how many prefixes and suffixes were cut to their limit so far.

    Raises:
        ValueError: if the tokenizer does not write `<image>` as one token.
    """

    valid_processor_kwargs = Pali3ProcessorKwargs

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        image_seq_length: int = 256,
        **kwargs,
    ):
        self.image_seq_length = image_seq_length
        self.image_token = IMAGE_TOKEN
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        self.truncation_counts: Counter[str] = Counter()
        super().__init__(image_processor, tokenizer, chat_template=chat_template or CHAT_TEMPLATE)
        self.check_image_token()

    @classmethod
    def from_backbones(cls, vision: str, text: str, image_seq_length: int | None = None) -> "Pali3Processor":
        """Assemble a processor from a published image encoder and encoder-decoder.

        Args:
            vision: Hub name or folder of a SigLIP checkpoint.
            text: Hub name or folder of a T5, UMT5 or T5Gemma checkpoint.
            image_seq_length: tokens of one image; read from the image encoder's configuration when left out.

        Returns:
            The processor, its tokenizer extended by `<image>`, 1024 location and 128 segmentation tokens.
        """
        if image_seq_length is None:
            image_seq_length = tokens_per_image(vision)
        tokenizer = extended_tokenizer(text)
        template = take_chat_template(tokenizer)
        image_processor = AutoImageProcessor.from_pretrained(vision)
        return cls(image_processor, tokenizer, template, image_seq_length=image_seq_length)

    def encode_batch(
        self, texts: list[str], image_tokens: list[list[int]], suffixes: list[str] | None, options: dict[str, Any]
    ) -> dict[str, Any]:
        """Make the encoder's inputs, and labels when there are suffixes; arguments as of the base class.

        Returns:
            `input_ids` and `attention_mask`: int[B, L], with one placeholder for each image token; with suffixes
            `labels`: int[B, S], padded with -100; `optional_outputs`.
        """
        text_options = options["text_kwargs"]
        prefixes, spans, expanded = self._encode_prefixes(texts, image_tokens, text_options)
        placeholders = max((row.count(self.image_token_id) for row in prefixes), default=0)
        limit = longest_limit(text_options.get("max_length"))
        padded_length = None if limit is None else limit + placeholders
        ones = [[1] * len(row) for row in prefixes]
        data: dict[str, Any] = {
            "input_ids": self.pad_rows(prefixes, self.tokenizer.pad_token_id, text_options, padded_length),
            "attention_mask": self.pad_rows(ones, 0, text_options, padded_length),
        }
        data |= self.optional_outputs(prefixes, spans, (texts, expanded), image_tokens, options, padded_length)
        if suffixes is not None:
            limits = text_options.get("suffix_max_length")
            controls = controls_of_each(text_options.get("controls"), len(suffixes))
            targets = self.encode_suffixes(suffixes, limits, controls)
            on_the_right = text_options | {"padding_side": "right"}
            data["labels"] = self.pad_rows(targets, IGNORE_INDEX, on_the_right, longest_limit(limits))
        return data

    def _encode_prefixes(
        self, texts: list[str], image_tokens: list[list[int]], options: dict[str, Any]
    ) -> tuple[list[list[int]], list[list[Span]], list[str]]:
        """Token ids of each prefix, with a placeholder for each image token; their spans with
        `return_offsets_mapping`; and the first piece of each prefix, with its placeholders.
        """
        controls = controls_of_each(options.get("controls"), len(texts))
        return_offsets = bool(options.get("return_offsets_mapping"))
        self.check_offsets(return_offsets, controls)
        own = [
            text if allowed == "all" else self.strip_placeholders(text, len(tokens))
            for text, tokens, allowed in zip(texts, image_tokens, controls)
        ]
        pieces = self.split_texts(own, controls)
        # only a text in one piece may hold placeholders
        firsts = [self.add_placeholders(parts[0], len(tokens)) for parts, tokens in zip(pieces, image_tokens)]
        special = options.get("add_special_tokens", True)
        begun = self.tokenizer(firsts, add_special_tokens=special, return_offsets_mapping=return_offsets)
        rests = self.encode_pieces([parts[1:] for parts in pieces])
        whole = [self._join(first, rest, special) for first, rest in zip(begun["input_ids"], rests)]
        limits = limit_of_each(options.get("max_length"), len(whole))
        kept = [self._kept_tokens(ids, limit) for ids, limit in zip(whole, limits)]
        encoded = [[ids[i] for i in places] for ids, places in zip(whole, kept)]
        rows = [self.expand_placeholders(ids, tokens) for ids, tokens in zip(encoded, image_tokens)]
        if not return_offsets:
            return rows, [], firsts
        spans = [[spans[i] for i in places] for spans, places in zip(begun["offset_mapping"], kept)]
        each = zip(encoded, spans, image_tokens)
        return rows, [expand_spans(ids, places, self.image_token_id, tokens) for ids, places, tokens in each], firsts

    def _join(self, first: list[int], rest: list[int], add_special_tokens: bool) -> list[int]:
        """Insert the ids of a text's other pieces into those of its first, before the tokenizer's closing tokens."""
        if not rest:
            return first
        closed, bare = (
            self.tokenizer("a", add_special_tokens=one)["input_ids"] for one in (add_special_tokens, False)
        )
        end = len(first) - (len(closed) - len(bare) - closed.index(bare[0]))
        return first[:end] + rest + first[end:]

    def _kept_tokens(self, ids: list[int], limit: int | None) -> list[int]:
        """Indices of the tokens within the limit: text is cut from the end, images and the end token are kept."""
        words = [i for i, token in enumerate(ids) if token != self.image_token_id]
        if limit is None or len(words) <= limit:
            return list(range(len(ids)))
        self.count_truncation("prefix", len(words), limit)
        ends = bool(ids) and ids[-1] == self.tokenizer.eos_token_id
        dropped = set(words[limit - 1 : -1] if ends else words[limit:])
        return [i for i in range(len(ids)) if i not in dropped]

    @property
    def model_input_names(self) -> list[str]:
        """Inputs of generation."""
        return ["input_ids", "attention_mask", *self.image_input_names()]


__all__ = ["Pali3Processor"]
