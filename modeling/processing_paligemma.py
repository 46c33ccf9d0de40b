"""Processor of PaliGemma: images, prefixes and suffixes in, sequences for training or prompts for generation out.

It reads and writes the files of Transformers' `PaliGemmaProcessor`. What departs from it:
- prefix, separator and suffix are tokenised apart, as in big_vision (a prefix that ends in a newline would otherwise
  merge with the separator);
- too long texts are cut, with a warning and a count, and keep their separator; limits do not count images;
- a text without images is a prompt like any other; several images a text need no special form;
- labels come only with a suffix; the papers' ablations of attention and loss are options;
- TRL's collator, which processes prompts and completions in two calls, gets suffixes from the second (`completions`).

Shapes: `B` examples, `L` tokens of a sequence.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from transformers import AutoImageProcessor
from transformers.models.paligemma import processing_paligemma as stock
from transformers.processing_utils import ProcessingKwargs, TextKwargs

from .control_tokens import Controls, controls_of_each
from .processing_chat import CHAT_TEMPLATE, take_chat_template
from .processing_offsets import NOWHERE, Span, expand_spans
from .processing_prefix_suffix import Limit, PrefixSuffixProcessor, limit_of_each, longest_limit, tokens_per_image
from .processing_tokenizer import extended_tokenizer
from .token_loss import IGNORE_INDEX

logger = logging.getLogger(__name__)

SEPARATOR, BOS = "\n", "<bos>"
PrefixAttention = Literal["full", "causal", "causal_all"]


class PaliGemmaTextKwargs(TextKwargs, total=False):
    """Text options, lengths in tokens.

    `max_length` bounds BOS, prefix and separator together, `suffix_max_length` the suffix and its end token.
    `loss_on_prefix` makes labels of the prefix as well (an ablation). `controls` says which control tokens texts may
    hold: "all" (default), "places" (locations and segments, while `<image>` and other special tokens are letters), or
    "none"; one value, or one for each text.
    """

    max_length: int | Sequence[int | None] | None
    suffix_max_length: int | Sequence[int | None] | None
    loss_on_prefix: bool
    controls: str | Sequence[str] | None


class PaliGemmaProcessorKwargs(ProcessingKwargs, total=False):
    """Options of `PaliGemmaProcessor`, by modality."""

    text_kwargs: PaliGemmaTextKwargs


class PaliGemmaProcessor(PrefixSuffixProcessor, stock.PaliGemmaProcessor):
    """One call from images and texts to a batch.

    Args:
        image_processor: of SigLIP, with `image_seq_length`.
        tokenizer: Gemma's; `<image>`, location and segmentation tokens are added where they are missing.
        chat_template: Jinja template of the messages form; `processing_chat`'s when left out, since the published
            checkpoints have none.
        prefix_attention: "full" is prefix-LM. The papers' ablations: "causal" makes the text of the prefix causal,
            "causal_all" the images too. Saved with the processor, since generation must use the same mask as training.
        **kwargs: as in Transformers.

    Attributes:
        truncation_counts: how many prefixes and suffixes were cut to their limit so far.

    Raises:
        ValueError: if the tokenizer does not write its image token as one token.
    """

    valid_processor_kwargs = PaliGemmaProcessorKwargs

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        prefix_attention: PrefixAttention = "full",
        **kwargs,
    ):
        self.truncation_counts: Counter[str] = Counter()
        self.warned_of_whole_chats = False
        self.prefix_attention = prefix_attention
        super().__init__(image_processor, tokenizer, chat_template=chat_template or CHAT_TEMPLATE, **kwargs)
        self.check_image_token()
        # Transformers' pipelines pad prompts on the tokenizer's side, which is saved only as an argument of its
        # construction; calls of this processor choose their own
        self.tokenizer.padding_side = self.tokenizer.init_kwargs["padding_side"] = "left"

    @classmethod
    def from_backbones(cls, vision: str, text: str, image_seq_length: int | None = None) -> "PaliGemmaProcessor":
        """Assemble a processor from a published image encoder and language model.

        Args:
            vision: Hub name or folder of a SigLIP checkpoint.
            text: Hub name or folder with a tokenizer, Gemma's or any other.
            image_seq_length: tokens of one image; read from the image encoder's configuration when left out.

        Returns:
            The processor, its tokenizer extended by location tokens, segmentation tokens and `<image>`, in the order
            of the published checkpoints, and by `<bos>` where it has no such token.

        Raises:
            ValueError: the image encoder takes images of any aspect ratio.
        """
        if image_seq_length is None:
            image_seq_length = tokens_per_image(vision)
        tokenizer = extended_tokenizer(text)
        if tokenizer.bos_token is None:
            tokenizer.add_special_tokens({"bos_token": BOS})
        template = take_chat_template(tokenizer)
        image_processor: Any = AutoImageProcessor.from_pretrained(vision)
        if hasattr(image_processor, "max_num_patches") and cls is PaliGemmaProcessor:
            raise ValueError(
                f"{vision} takes images of any aspect ratio: call PaliGemmaNaflexProcessor.from_backbones"
            )
        image_processor.image_seq_length = image_seq_length
        return cls(image_processor, tokenizer, template)

    def default_padding_side(self, options: dict[str, Any], with_suffix: bool) -> str:
        """Prompts are padded on the left, so that answers follow them; training sequences on the right."""
        return "right" if with_suffix else "left"

    def encode_batch(
        self, texts: list[str], image_tokens: list[list[int]], suffixes: list[str] | None, options: dict[str, Any]
    ) -> dict[str, Any]:
        """Make sequences of images, prefix and suffix; arguments as of the base class.

        Returns:
            `input_ids`, `attention_mask` (0 on padding), `token_type_ids` (0 where attention is bidirectional):
            int[B, L]; with suffixes `labels`: int[B, L], -100 where there is nothing to predict; `optional_outputs`.
        """
        text_options = options["text_kwargs"]
        limits = text_options.get("max_length"), text_options.get("suffix_max_length")
        controls = controls_of_each(text_options.get("controls"), len(texts))
        if suffixes is None and text_options.get("add_special_tokens") is False:
            if text_options["padding_side"] == "right" and not any(image_tokens):
                return self.completions(texts, controls, text_options)
            self.warn_of_whole_chats(text_options)
        split = [self.split_prefix(*parts) for parts in zip(texts, map(len, image_tokens), controls)]
        prefixes = self.encode_prefixes(split, image_tokens, controls, limits[0])
        targets = [[] for _ in texts] if suffixes is None else self.encode_suffixes(suffixes, limits[1], controls)
        rows = [prefix + target for prefix, target in zip(prefixes, targets)]
        placeholders = max((row.count(self.image_token_id) for row in rows), default=0)
        padded_length = placeholders + sum(longest_limit(limit) or 0 for limit in limits)

        def padded(values: list[list[Any]], fill: int) -> list[list[Any]]:
            return self.pad_rows(values, fill, text_options, padded_length)

        types = [self.types(prefix) + [1] * len(target) for prefix, target in zip(prefixes, targets)]
        data: dict[str, Any] = {"input_ids": padded(rows, self.tokenizer.pad_token_id)}
        data |= {"attention_mask": padded([[1] * len(row) for row in rows], 0), "token_type_ids": padded(types, 0)}
        return_offsets = bool(text_options.get("return_offsets_mapping"))
        self.check_offsets(return_offsets, controls)
        spans = self.spans(split, image_tokens, prefixes, targets) if return_offsets else []
        expanded = [head + words for head, words in split]
        data |= self.optional_outputs(rows, spans, (texts, expanded), image_tokens, options, padded_length)
        if suffixes is not None:
            on_prefix = text_options.get("loss_on_prefix", False)
            labels = [self.prefix_labels(p, on_prefix) + target for p, target in zip(prefixes, targets)]
            data["labels"] = padded(labels, IGNORE_INDEX)
        return data

    def completions(
        self, texts: list[str], controls: Sequence[Controls], text_options: dict[str, Any]
    ) -> dict[str, Any]:
        """Suffixes alone, for a collator that puts them behind prompts, as TRL's does.

        It calls with `add_special_tokens=False` both times: for prompts with images and `padding_side="left"`, for
        completions without and "right". A newline in front, where a chat template wrote the separator, is left out,
        since prompts end with it.

        Returns:
            `input_ids`: suffix and end token; `attention_mask`; `token_type_ids`: 1 throughout; all int[B, L].
        """
        rows = self.encode_suffixes([text.removeprefix(SEPARATOR) for text in texts], None, controls)
        ones = [[1] * len(row) for row in rows]
        values = {"input_ids": (rows, self.tokenizer.pad_token_id), "attention_mask": (ones, 0)}
        values |= {"token_type_ids": (ones, 0)}
        return {name: self.pad_rows(value, fill, text_options) for name, (value, fill) in values.items()}

    def warn_of_whole_chats(self, text_options: dict[str, Any]) -> None:
        """Say that prompt and answer in one text make a prompt, whose tokens see each other."""
        if text_options["padding_side"] == "right" and not self.warned_of_whole_chats:
            self.warned_of_whole_chats = True
            logger.warning(
                "images and whole texts were given for training, without a suffix: every token sees the answer, and"
                " the model learns nothing. Give prompt and suffix apart; in TRL, columns prompt and completion"
            )

    def split_prefix(self, text: str, images: int, controls: Controls) -> tuple[str, str]:
        """Split a prefix behind its last placeholder; where its text may hold none, before its text."""
        if controls != "all":
            return self.image_token * images, self.strip_placeholders(text, images)
        text = self.add_placeholders(text, images)
        cut = self.end_of_images(text)
        return text[:cut], text[cut:]

    def encode_prefixes(
        self,
        split: Sequence[tuple[str, str]],
        image_tokens: list[list[int]],
        controls: Sequence[Controls],
        limits: Limit,
    ) -> list[list[int]]:
        """Token ids of images, BOS, prefix and separator, in this order; BOS is behind the last image."""
        heads, end = self.encode_all([head for head, _ in split]), self.encode(SEPARATOR)
        texts = self.encode_texts([words for _, words in split], controls)
        rows = []
        for head, tokens, words, limit in zip(heads, image_tokens, texts, limit_of_each(limits, len(split))):
            length = 1 + len(words) + len(end)
            if limit is not None and length > limit:
                self.count_truncation("prefix", length, limit)
                words = words[: max(0, limit - 1 - len(end))]
            rows.append([*self.expand_placeholders(head, tokens), self.tokenizer.bos_token_id, *words, *end])
        return rows

    def end_of_images(self, text: str) -> int:
        """Characters up to the end of the last placeholder."""
        return text.rfind(self.image_token) + len(self.image_token) if self.image_token in text else 0

    def spans(
        self,
        split: Sequence[tuple[str, str]],
        image_tokens: list[list[int]],
        prefixes: list[list[int]],
        targets: list[list[int]],
    ) -> list[list[Span]]:
        """Character spans of each token (see `processing_offsets`): `NOWHERE` for added tokens and targets."""
        rows, end = [], self.encode(SEPARATOR)
        for (head, words), tokens, prefix, target in zip(split, image_tokens, prefixes, targets):
            options: Any = {"add_special_tokens": False, "return_offsets_mapping": True}
            head_spans, word_spans = self.tokenizer([head, words], **options)["offset_mapping"]
            ids = self.encode(head)  # none of an empty text
            before = expand_spans(ids, head_spans, self.image_token_id, tokens)
            added = (sum(tokens) - len(tokens)) * len(self.image_token)
            shift = len(head) + added
            kept = len(prefix) - len(before) - 1 - len(end)
            after = [(start + shift, stop + shift) for start, stop in word_spans[:kept]]
            rows.append([*before, NOWHERE, *after, *[NOWHERE] * (len(end) + len(target))])
        return rows

    def encode_all(self, texts: list[str]) -> list[list[int]]:
        """Token ids of pieces of text, no special tokens added."""
        encoded = self.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        return [ids if text else [] for ids, text in zip(encoded, texts)]

    def encode(self, text: str) -> list[int]:
        """Token ids of one piece of text, no special tokens added."""
        return self.encode_all([text])[0]

    def types(self, prefix: list[int]) -> list[int]:
        """Token types of images and prefix: 0 for bidirectional attention, 1 for causal.

        Raises:
            ValueError: if `prefix_attention` is none of its three values.
        """
        match self.prefix_attention:
            case "full":
                return [0] * len(prefix)
            case "causal":
                return [int(token != self.image_token_id) for token in prefix]
            case "causal_all":
                return [1] * len(prefix)
            case other:
                raise ValueError(f"prefix_attention is 'full', 'causal' or 'causal_all', not {other!r}")

    def prefix_labels(self, prefix: list[int], loss_on_prefix: bool) -> list[int]:
        """Labels of images and prefix: none, or with `loss_on_prefix` everything behind BOS."""
        if not loss_on_prefix:
            return [IGNORE_INDEX] * len(prefix)
        behind_bos = len(prefix) - prefix[::-1].index(self.tokenizer.bos_token_id)
        return [IGNORE_INDEX] * behind_bos + prefix[behind_bos:]

    @property
    def model_input_names(self) -> list[str]:
        """Inputs of generation."""
        return ["input_ids", "attention_mask", "token_type_ids", *self.image_input_names()]


__all__ = ["PaliGemmaProcessor"]
