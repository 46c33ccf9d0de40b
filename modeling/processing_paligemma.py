"""Processor of PaliGemma: images, prefixes and suffixes in, sequences for training or prompts for generation out.

It reads and writes the files of Transformers' `PaliGemmaProcessor`. What departs from it: prefix, separator and suffix
are tokenised apart, as in the reference code (a prefix that ends in a newline would otherwise join the separator);
too long texts are cut, warned of and counted, and never lose their separator; limits do not count images;
a text without images is a prompt like any other; labels come only with a suffix; several images a text need no
special form; the papers' ablations of attention and loss are options.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from transformers import AutoImageProcessor, AutoTokenizer, BatchFeature
from transformers.models.paligemma import processing_paligemma as stock
from transformers.processing_utils import ProcessingKwargs, TextKwargs, Unpack

from .checkpoints import reading
from .configuration_pali3 import vision_config_of
from .control_tokens import Controls, controls_of_each
from .processing_chat import CHAT_TEMPLATE, take_chat_template
from .processing_offsets import NOWHERE, Span, expand_spans
from .processing_prefix_suffix import (
    IMAGE_TOKEN,
    LOCATION_TOKENS,
    SEGMENTATION_TOKENS,
    Limit,
    PrefixSuffixProcessor,
    limit_of_each,
    longest_limit,
    without_limits,
)
from .token_loss import IGNORE_INDEX

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
            "causal_all" the images too. Saved with the processor, since generation must do as training did.
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
        self.prefix_attention = prefix_attention
        super().__init__(image_processor, tokenizer, chat_template=chat_template or CHAT_TEMPLATE, **kwargs)
        self.check_image_token()
        # Transformers' pipelines pad batches of prompts by the tokenizer's side, which is saved only where it was made
        # with one; here each call says its own
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
            of the published checkpoints, and by `<bos>` where it has no token to begin with.
        """
        if image_seq_length is None:
            config = vision_config_of(vision)
            image_seq_length = int((config.image_size // config.patch_size) ** 2)
        with reading(text):
            tokenizer = without_limits(AutoTokenizer.from_pretrained(text))
        tokenizer.add_tokens(LOCATION_TOKENS + SEGMENTATION_TOKENS)
        tokenizer.add_tokens([IMAGE_TOKEN], special_tokens=True)
        if tokenizer.bos_token is None:
            tokenizer.add_special_tokens({"bos_token": BOS})
        template = take_chat_template(tokenizer)
        image_processor: Any = AutoImageProcessor.from_pretrained(vision)
        image_processor.image_seq_length = image_seq_length
        return cls(image_processor, tokenizer, template)

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        suffix: str | Sequence[str] | None = None,
        videos: Any = None,
        **kwargs: Unpack[PaliGemmaProcessorKwargs],
    ) -> BatchFeature:
        """Make model inputs, and labels when a suffix is given.

        Args:
            images: one image, a list with one image per text, or a list of lists with the images of each
                text; an image is a PIL image, an array, a path or a URL. With a single text every image is
                that text's.
            text: the prefix or prefixes. `<image>` may mark the images' places; otherwise they come first.
            suffix: the target or targets; without it the result is a prompt to generate from.
            videos: as `images`, with a list of frames for each text; frames are read as images, in order.
            **kwargs: `return_tensors`, `padding` (default: to the longest; `"max_length"`: to the limits below),
                `padding_side` (right with a suffix, left without), `max_length` (of BOS, prefix and separator,
                images not counted), `suffix_max_length`, `loss_on_prefix`, `return_offsets_mapping`,
                `return_mm_token_type_ids`, and the image processor's options. Both limits are a number, or one for
                each text.

        Returns:
            `pixel_values`: float[total_images, 3, H, W] in [-1, 1]; `input_ids`, `attention_mask` (0 on padding),
            `token_type_ids` (0 where attention is in both directions): int[B, L]; with a suffix `labels`: int[B, L],
            -100 where there is nothing to predict.

        Raises:
            ValueError: if the numbers of texts, images, placeholders or suffixes do not fit together.
        """
        options = self._merge_kwargs(tokenizer_init_kwargs=self.tokenizer.init_kwargs, **kwargs)
        text_options = options["text_kwargs"]
        # padding to the right of a prompt would stand before its answer; training goes the other way
        side: Any = kwargs.get("padding_side") or kwargs.get("text_kwargs", {}).get("padding_side")
        text_options["padding_side"] = side or ("left" if suffix is None else "right")
        nested, texts, suffixes = self.images_and_texts(images if videos is None else videos, text, suffix)

        data: dict[str, Any] = {}
        flat = [image for row in nested for image in row]
        if flat:
            data["pixel_values"] = self.image_processor(flat, **options["images_kwargs"])["pixel_values"]
        limits = text_options.get("max_length"), text_options.get("suffix_max_length")
        controls = controls_of_each(text_options.get("controls"), len(texts))
        marked = [self.head_and_words(text, len(own), which) for text, own, which in zip(texts, nested, controls)]
        prefixes = self.encode_prefixes(marked, controls, limits[0])
        targets = [[] for _ in texts] if suffixes is None else self.encode_suffixes(suffixes, limits[1], controls)
        rows = [prefix + target for prefix, target in zip(prefixes, targets)]
        placeholders = max((row.count(self.image_token_id) for row in rows), default=0)
        full = placeholders + sum(longest_limit(limit) or 0 for limit in limits)
        data["input_ids"] = self.pad_rows(rows, self.tokenizer.pad_token_id, text_options, full)
        data["attention_mask"] = self.pad_rows([[1] * len(row) for row in rows], 0, text_options, full)
        asked = bool(text_options.get("return_offsets_mapping"))
        self.check_offsets(asked, controls)
        spans = self.spans(marked, prefixes, targets) if asked else []
        data |= self.token_facts(rows, spans, (texts, [head + words for head, words in marked]), options, full)
        types = [self.types(prefix) + [1] * len(target) for prefix, target in zip(prefixes, targets)]
        data["token_type_ids"] = self.pad_rows(types, 0, text_options, full)
        if suffixes is not None:
            on_prefix = text_options.get("loss_on_prefix", False)
            labels = [self.prefix_labels(p, on_prefix) + target for p, target in zip(prefixes, targets)]
            data["labels"] = self.pad_rows(labels, IGNORE_INDEX, text_options, full)
        tensors = text_options.get("return_tensors")
        return BatchFeature(data, tensor_type=tensors, skip_tensor_conversion=self.skip_tensor_conversion)

    def head_and_words(self, text: str, images: int, controls: Controls) -> tuple[str, str]:
        """A prefix up to its last placeholder, and what is behind; where it may hold none, these are the images'."""
        if controls != "all":
            return self.image_token * images, self.unmarked(text, images)
        text = self.marked(text, images)
        cut = self.end_of_images(text)
        return text[:cut], text[cut:]

    def encode_prefixes(
        self, marked: Sequence[tuple[str, str]], controls: Sequence[Controls], limits: Limit
    ) -> list[list[int]]:
        """Token ids of images, BOS, prefix and separator, in this order; BOS is behind the last image."""
        heads, end = self.encode_all([head for head, _ in marked]), self.encode(SEPARATOR)
        texts = self.encode_texts([words for _, words in marked], controls)
        rows = []
        for head, words, limit in zip(heads, texts, limit_of_each(limits, len(marked))):
            length = 1 + len(words) + len(end)
            if limit is not None and length > limit:
                self.count_truncation("prefix", length, limit)
                words = words[: max(0, limit - 1 - len(end))]
            rows.append([*self.expand_placeholders(head), self.tokenizer.bos_token_id, *words, *end])
        return rows

    def end_of_images(self, text: str) -> int:
        """Characters up to the end of the last placeholder."""
        return text.rfind(self.image_token) + len(self.image_token) if self.image_token in text else 0

    def spans(
        self, marked: Sequence[tuple[str, str]], prefixes: list[list[int]], targets: list[list[int]]
    ) -> list[list[Span]]:
        """Character spans of each token (see `processing_offsets`): `NOWHERE` for added tokens and targets."""
        found, end = [], self.encode(SEPARATOR)
        for (before_words, words_text), prefix, target in zip(marked, prefixes, targets):
            cut = len(before_words)
            options: Any = {"add_special_tokens": False, "return_offsets_mapping": True}
            head, words = self.tokenizer([before_words, words_text], **options)["offset_mapping"]
            ids = self.encode(before_words)  # none of an empty text
            before = expand_spans(ids, head, self.image_token_id, self.image_seq_length)
            moved = cut + ids.count(self.image_token_id) * (self.image_seq_length - 1) * len(self.image_token)
            kept = len(prefix) - len(before) - 1 - len(end)
            after = [(start + moved, stop + moved) for start, stop in words[:kept]]
            found.append([*before, NOWHERE, *after, *[NOWHERE] * (len(end) + len(target))])
        return found

    def encode_all(self, texts: list[str]) -> list[list[int]]:
        """Token ids of pieces of text, no special tokens added."""
        ids = self.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        return [found if text else [] for found, text in zip(ids, texts)]

    def encode(self, text: str) -> list[int]:
        """Token ids of one piece of text, no special tokens added."""
        return self.encode_all([text])[0]

    def types(self, prefix: list[int]) -> list[int]:
        """Token types of images and prefix: 0 for both directions, 1 for causal.

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
        """What the model reads when it answers."""
        return ["input_ids", "attention_mask", "token_type_ids", "pixel_values"]


__all__ = ["PaliGemmaProcessor"]
