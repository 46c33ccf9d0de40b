"""Processor of PaLI-3: images, prefixes and suffixes in, model inputs and labels out.

It has the signature of Transformers' `PaliGemmaProcessor`, so that one collator serves both families. Prefix and
suffix are tokenised apart: the prefix, behind the image placeholders, is the encoder's input; the suffix with
its end token is the decoder's target.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from transformers import AutoImageProcessor, AutoTokenizer, BatchFeature
from transformers.processing_utils import ProcessingKwargs, TextKwargs, Unpack

from .checkpoints import reading
from .configuration_pali3 import vision_config_of
from .control_tokens import controls_of_each
from .processing_chat import CHAT_TEMPLATE, take_chat_template
from .processing_offsets import Span, expand_spans
from .processing_prefix_suffix import (
    IMAGE_TOKEN,
    LOCATION_TOKENS,
    SEGMENTATION_TOKENS,
    PrefixSuffixProcessor,
    limit_of_each,
    longest_limit,
    without_limits,
)
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
        image_seq_length: tokens of one image, `(image_size / patch_size) ** 2`.

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
            config = vision_config_of(vision)
            image_seq_length = int((config.image_size // config.patch_size) ** 2)
        with reading(text):
            tokenizer = without_limits(AutoTokenizer.from_pretrained(text))
        tokenizer.add_tokens(LOCATION_TOKENS + SEGMENTATION_TOKENS)
        tokenizer.add_tokens([IMAGE_TOKEN], special_tokens=True)
        template = take_chat_template(tokenizer)
        image_processor = AutoImageProcessor.from_pretrained(vision)
        return cls(image_processor, tokenizer, template, image_seq_length=image_seq_length)

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        suffix: str | Sequence[str] | None = None,
        videos: Any = None,
        **kwargs: Unpack[Pali3ProcessorKwargs],
    ) -> BatchFeature:
        """Make model inputs, and labels when a suffix is given.

        Args:
            images: one image, a list with one image per text, or a list of lists with the images of each
                text; an image is a PIL image, an array, a path or a URL. With a single text every image is
                that text's.
            text: the prefix or prefixes. `<image>` may mark the images' places; otherwise they come first.
            suffix: the target or targets.
            videos: as `images`, with a list of frames for each text; frames are read as images, in order.
            **kwargs: `return_tensors`, `padding` (default: to the longest; `"max_length"`: to the limits below),
                `padding_side` (of the prefix), `max_length` (of the prefix, images not counted),
                `suffix_max_length`, `return_offsets_mapping`, `return_mm_token_type_ids`, and the image processor's
                options. Both limits are a number, or one for each text.

        Returns:
            `pixel_values`: float[total_images, 3, H, W] in [-1, 1], `input_ids` and `attention_mask`:
            int[B, L] with one placeholder for each image token, and with a suffix `labels`: int[B, T], padded
            with -100.

        Raises:
            ValueError: if the numbers of texts, images, placeholders or suffixes do not fit together.
        """
        options = self._merge_kwargs(tokenizer_init_kwargs=self.tokenizer.init_kwargs, **kwargs)
        text_options = options["text_kwargs"]
        nested, texts, suffixes = self.images_and_texts(images if videos is None else videos, text, suffix)

        data: dict[str, Any] = {}
        flat = [image for row in nested for image in row]
        if flat:
            data["pixel_values"] = self.image_processor(flat, **options["images_kwargs"])["pixel_values"]
        counts = [len(row) for row in nested]
        prefixes, spans, marked = self._encode_prefixes(texts, counts, text_options)
        placeholders = max((row.count(self.image_token_id) for row in prefixes), default=0)
        limit = longest_limit(text_options.get("max_length"))
        full = None if limit is None else limit + placeholders
        padded = self.pad_rows(prefixes, self.tokenizer.pad_token_id, text_options, full)
        data["input_ids"] = padded
        lengths = [len(ids) for ids in prefixes]
        left = (text_options.get("padding_side") or self.tokenizer.padding_side) == "left"
        data["attention_mask"] = [
            [0] * (len(row) - n) + [1] * n if left else [1] * n + [0] * (len(row) - n)
            for row, n in zip(padded, lengths)
        ]
        data |= self.token_facts(prefixes, spans, (texts, marked), options, full)
        if suffixes is not None:
            limit = text_options.get("suffix_max_length")
            controls = controls_of_each(text_options.get("controls"), len(suffixes))
            targets = self.encode_suffixes(suffixes, limit, controls)
            full, options_right = longest_limit(limit), text_options | {"padding_side": "right"}
            data["labels"] = self.pad_rows(targets, IGNORE_INDEX, options_right, full)
        tensors = text_options.get("return_tensors")
        return BatchFeature(data, tensor_type=tensors, skip_tensor_conversion=self.skip_tensor_conversion)

    def _encode_prefixes(
        self, texts: list[str], image_counts: list[int], options: dict[str, Any]
    ) -> tuple[list[list[int]], list[list[Span]], list[str]]:
        """Token ids of each prefix, every placeholder repeated for each of its image tokens; their spans, where
        `return_offsets_mapping` is asked for; and the prefixes with their placeholders, up to where they are cut.
        """
        controls = controls_of_each(options.get("controls"), len(texts))
        asked = bool(options.get("return_offsets_mapping"))
        self.check_offsets(asked, controls)
        own = [
            text if which == "all" else self.unmarked(text, count)
            for text, count, which in zip(texts, image_counts, controls)
        ]
        cut = self.cut(own, controls)
        # only a text that is in one piece may hold placeholders
        firsts = [self.marked(parts[0], count) for parts, count in zip(cut, image_counts)]
        special = options.get("add_special_tokens", True)
        begun = self.tokenizer(firsts, add_special_tokens=special, return_offsets_mapping=asked)
        rests = self.encode_pieces([parts[1:] for parts in cut])
        whole = [self._joined(first, rest, special) for first, rest in zip(begun["input_ids"], rests)]
        limits = limit_of_each(options.get("max_length"), len(whole))
        kept = [self._within(ids, limit) for ids, limit in zip(whole, limits)]
        encoded = [[ids[i] for i in places] for ids, places in zip(whole, kept)]
        rows = [self.expand_placeholders(ids) for ids in encoded]
        if not asked:
            return rows, [], firsts
        spans = [[spans[i] for i in places] for spans, places in zip(begun["offset_mapping"], kept)]
        repeated = self.image_token_id, self.image_seq_length
        return rows, [expand_spans(ids, places, *repeated) for ids, places in zip(encoded, spans)], firsts

    def _joined(self, first: list[int], rest: list[int], add_special_tokens: bool) -> list[int]:
        """The ids of a text's first piece with those of the others before the tokenizer's closing tokens."""
        if not rest:
            return first
        closed, bare = (
            self.tokenizer("a", add_special_tokens=one)["input_ids"] for one in (add_special_tokens, False)
        )
        end = len(first) - (len(closed) - len(bare) - closed.index(bare[0]))
        return first[:end] + rest + first[end:]

    def _within(self, ids: list[int], limit: int | None) -> list[int]:
        """Which tokens stay: text is cut from the end, images and the end token are kept."""
        words = [i for i, token in enumerate(ids) if token != self.image_token_id]
        if limit is None or len(words) <= limit:
            return list(range(len(ids)))
        self.count_truncation("prefix", len(words), limit)
        ends = bool(ids) and ids[-1] == self.tokenizer.eos_token_id
        dropped = set(words[limit - 1 : -1] if ends else words[limit:])
        return [i for i in range(len(ids)) if i not in dropped]

    @property
    def model_input_names(self) -> list[str]:
        """What the model reads when it answers."""
        return ["input_ids", "attention_mask", "pixel_values"]


__all__ = ["Pali3Processor"]
