"""Base of both families' processors: one call from images, prefixes and suffixes to a batch.

Prefix and suffix are tokenised apart, as in big_vision, so that no token spans their border.

Shapes: `B` examples, `N` images, `L` tokens of a sequence, `H W` pixels.
"""

import logging
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor, BatchFeature
from transformers.image_utils import is_valid_image
from transformers.processing_utils import MultiModalData, ProcessorMixin

from .configuration_pali3 import vision_config_of
from .control_tokens import Controls, controls_of_each, special_tokens, split_control_tokens
from .image_patches import is_naflex, most_image_tokens, patches_of_sizes
from .processing_offsets import NOWHERE, Span, replacement_offsets

logger = logging.getLogger(__name__)

# the largest number of tokens of a text: one for all texts, or one for each
Limit = int | Sequence[int | None] | None


class PrefixSuffixProcessor(ProcessorMixin):
    """Base of the processors; a family's `encode_batch` makes its token sequences.

    Attributes:
        tokenizer: has `image_token` as one token.
        image_token: the placeholder in texts.
        image_token_id: its id.
        image_seq_length: tokens of one image; of images of any aspect ratio the most that one may have.
        truncation_counts: how many prefixes and suffixes were cut to their limit so far.
    """

    tokenizer: Any
    image_processor: Any
    image_token: str
    image_token_id: int
    image_seq_length: int
    truncation_counts: Counter[str]

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        suffix: str | Sequence[str] | None = None,
        videos: Any = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Make model inputs, and labels when a suffix is given.

        Args:
            images: one image, a list with one image per text, or a list of lists with the images of each text; an
                image is a PIL image, an array, a path or a URL. With a single text every image is that text's.
            text: the prefix or prefixes. `<image>` may mark the images' places; otherwise they come first.
            suffix: the target or targets; without it the result is a prompt to generate from.
            videos: as `images`, with a list of frames for each text; frames are read as images, in order.
            **kwargs: `return_tensors`; `padding` (default: to the longest; `"max_length"`: to the limits) and
                `padding_side`; the limits `max_length` and `suffix_max_length`, in tokens without those of images,
                one for all texts or a list; `return_offsets_mapping`, `return_mm_token_type_ids`; further text
                options of the family (`valid_processor_kwargs`) and of the image processor.

        Returns:
            `pixel_values`: float[N, 3, H, W] in [-1, 1], and what the family's `encode_batch` returns. For images of
            any aspect ratio the outputs of `Siglip2ImageProcessor`: patches, their mask and their `spatial_shapes`.

        Raises:
            ValueError: the numbers of texts, images, placeholders or suffixes do not fit together.
        """
        options = self._merge_kwargs(tokenizer_init_kwargs=self.tokenizer.init_kwargs, **kwargs)
        text_options = options["text_kwargs"]
        side: Any = kwargs.get("padding_side") or kwargs.get("text_kwargs", {}).get("padding_side")
        text_options["padding_side"] = side or self.default_padding_side(text_options, suffix is not None)
        nested, texts, suffixes = self.images_and_texts(images if videos is None else videos, text, suffix)
        flat = [image for row in nested for image in row]
        data: dict[str, Any] = {}
        if flat:
            data |= dict(self.image_processor(flat, **options["images_kwargs"]))
        tokens = iter(self.tokens_of_images(data, len(flat)))
        data |= self.encode_batch(texts, [[next(tokens) for _ in row] for row in nested], suffixes, options)
        tensors = text_options.get("return_tensors")
        return BatchFeature(data, tensor_type=tensors, skip_tensor_conversion=self.skip_tensor_conversion)

    def default_padding_side(self, options: dict[str, Any], with_suffix: bool) -> str:
        """Side of the padding where a call does not choose it; `options`: of the text, merged."""
        return options.get("padding_side") or self.tokenizer.padding_side

    def tokens_of_images(self, data: dict[str, Any], images: int) -> list[int]:
        """Number of tokens of each image; `data`: of the image processor."""
        if "spatial_shapes" in data:
            return [int(rows) * int(columns) for rows, columns in data["spatial_shapes"]]
        return [self.image_seq_length] * images

    @property
    def any_aspect_ratio(self) -> bool:
        """Whether images keep their aspect ratio and have different numbers of tokens."""
        return hasattr(self.image_processor, "max_num_patches")

    @abstractmethod
    def encode_batch(
        self, texts: list[str], image_tokens: list[list[int]], suffixes: list[str] | None, options: dict[str, Any]
    ) -> dict[str, Any]:
        """Make the token sequences of a batch, padded; each family lays them out in its own way.

        Args:
            texts: prefixes.
            image_tokens: of each text the number of tokens of each of its images.
            suffixes: of each text; None for prompts.
            options: of the call, merged, by modality.

        Raises:
            ValueError: a text has another number of placeholders than images.
        """

    def check_image_token(self) -> None:
        """Raise ValueError unless the tokenizer writes the placeholder as one token."""
        ids = self.tokenizer([self.image_token * 2], add_special_tokens=False)["input_ids"][0]
        if ids != [self.image_token_id] * 2:
            raise ValueError(
                f"the tokenizer {self.tokenizer.name_or_path or type(self.tokenizer).__name__} has no"
                f" {self.image_token} token (it writes two of them as {len(ids)} tokens): let from_backbones add it,"
                f" or tokenizer.add_special_tokens({{'additional_special_tokens': ['{self.image_token}']}})"
            )

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs) -> str:
        """The text of one image before tokenising: a placeholder for each of its tokens."""
        return self.image_token * self.tokens_of_images(image_inputs, image_idx + 1)[image_idx]

    def _get_num_multimodal_tokens(self, image_sizes: Sequence[Any] | None = None, **kwargs) -> MultiModalData:
        """Number of tokens of images of these sizes, height and width, for memory planning."""
        if image_sizes is None:
            return MultiModalData()
        any_ratio, images = self.any_aspect_ratio, len(image_sizes)
        tokens = patches_of_sizes(self.image_processor, image_sizes) if any_ratio else [self.image_seq_length] * images
        return MultiModalData(num_image_tokens=tokens, num_image_patches=[1] * images)

    def optional_outputs(
        self,
        rows: list[list[int]],
        spans: list[list[Span]],
        texts: tuple[list[str], list[str]],
        image_tokens: list[list[int]],
        options: dict[str, Any],
        padded_length: int | None,
    ) -> dict[str, Any]:
        """Outputs that a call of Transformers' processors requests, padded as the tokens are.

        Args:
            rows: tokens of each example.
            spans: of each row with `return_offsets_mapping`, otherwise empty.
            texts: of each example, as given and with placeholders.
            image_tokens: see `encode_batch`.
            options: of the call, merged, by modality.
            padded_length: see `pad_rows`.

        Returns:
            Those requested of `mm_token_type_ids`: int[B, L], 1 on image tokens; `offset_mapping`: int[B, L, 2];
            `text_replacement_offsets`.
        """
        outputs: dict[str, Any] = {}
        if options["return_mm_token_type_ids"]:
            kinds = [[int(token == self.image_token_id) for token in row] for row in rows]
            outputs["mm_token_type_ids"] = self.pad_rows(kinds, 0, options["text_kwargs"], padded_length)
        if spans:
            outputs["offset_mapping"] = self.pad_rows(spans, NOWHERE, options["text_kwargs"], padded_length)
        if options["return_text_replacement_offsets"]:
            outputs["text_replacement_offsets"] = [
                replacement_offsets(given, expanded, self.image_token, tokens)
                for given, expanded, tokens in zip(*texts, image_tokens)
            ]
        return outputs

    def images_and_texts(
        self, images: Any, text: str | Sequence[str] | None, suffix: str | Sequence[str] | None
    ) -> tuple[list[list[Any]], list[str], list[str] | None]:
        """Bring images, texts and suffixes of any form into lists of one length: the images of each text, the texts,
        the suffixes.

        Raises:
            ValueError: if their numbers do not fit together.
        """
        nested = self._images_per_text(images, text)
        texts = [""] * len(nested) if text is None else [text] if isinstance(text, str) else list(text)
        suffixes = [suffix] if isinstance(suffix, str) else suffix
        if suffixes is not None and len(suffixes) != len(texts):
            raise ValueError(f"{len(texts)} texts but {len(suffixes)} suffixes")
        return nested, texts, None if suffixes is None else list(suffixes)

    def _images_per_text(self, images: Any, text: str | Sequence[str] | None) -> list[list[Any]]:
        if images is None:
            if text is None:
                raise ValueError("neither text nor images were given")
            return [[] for _ in ([text] if isinstance(text, str) else text)]
        fetched: Any = self.image_processor.fetch_images(without_path_objects(images))
        if is_valid_image(fetched):
            fetched = [fetched]
        if all(isinstance(row, (list, tuple)) for row in fetched):
            nested = [list(row) for row in fetched]
        elif isinstance(text, str):
            nested = [list(fetched)]
        elif text is not None and (counts := self._placeholder_counts(text, len(fetched))):
            rest = iter(fetched)
            nested = [[next(rest) for _ in range(count)] for count in counts]
        else:
            nested = [[image] for image in fetched]
        number_of_texts = len(nested) if text is None else 1 if isinstance(text, str) else len(text)
        if len(nested) != number_of_texts:
            raise ValueError(
                f"{number_of_texts} texts but images for {len(nested)}: give one image or one list of"
                " images for each text"
            )
        return nested

    def _placeholder_counts(self, texts: Sequence[str], images: int) -> list[int] | None:
        """Number of images of each text by its placeholders, where they account for every image."""
        counts = [text.count(self.image_token) for text in texts]
        return counts if sum(counts) == images else None

    def add_placeholders(self, text: str, images: int) -> str:
        """The text with one placeholder for each of its images, in front where it has none.

        Raises:
            ValueError: if it has another number of placeholders.
        """
        placeholders = text.count(self.image_token)
        if placeholders == 0:
            return self.image_token * images + text
        if placeholders != images:
            raise ValueError(f"{placeholders} {self.image_token} placeholders but {images} images in {text!r}")
        return text

    def strip_placeholders(self, text: str, images: int) -> str:
        """The text without the placeholders of its images, where these stand in front."""
        return text.removeprefix(self.image_token * images)

    def check_offsets(self, return_offsets: bool, controls: Sequence[Controls]) -> None:
        """Raise ValueError where offsets are requested of texts that are tokenised in pieces."""
        if return_offsets and set(controls) - {"all"}:
            raise ValueError("return_offsets_mapping needs controls='all': other texts are tokenised in pieces")

    def expand_placeholders(self, ids: list[int], image_tokens: Sequence[int]) -> list[int]:
        """Every placeholder repeated for each token of its image."""
        expanded, tokens = list[int](), iter(image_tokens)
        for token in ids:
            expanded.extend([token] * (next(tokens) if token == self.image_token_id else 1))
        return expanded

    def image_input_names(self) -> list[str]:
        """Inputs of a model that the image processor makes."""
        return list(getattr(self.image_processor, "model_input_names", ["pixel_values"]))

    def encode_texts(self, texts: Sequence[str], controls: Sequence[Controls]) -> list[list[int]]:
        """Token ids of texts, each with the control tokens that `controls` allows it; no special tokens are added."""
        return self.encode_pieces(self.split_texts(texts, controls))

    def split_texts(self, texts: Sequence[str], controls: Sequence[Controls]) -> list[list[str]]:
        """Split each text into pieces without the control tokens that `controls` forbids it."""
        special = special_tokens(self.tokenizer, self.image_token)
        return [split_control_tokens(text, special, allowed) for text, allowed in zip(texts, controls, strict=True)]

    def encode_pieces(self, texts: list[list[str]]) -> list[list[int]]:
        """Token ids of texts in pieces; no special tokens are added."""
        flat = [piece for pieces in texts for piece in pieces]
        encoded = self.tokenizer(flat, add_special_tokens=False)["input_ids"] if flat else []
        # some tokenizers begin an empty text with a space
        ids = iter(ids if piece else [] for ids, piece in zip(encoded, flat))
        return [[token for _ in pieces for token in next(ids)] for pieces in texts]

    def encode_suffixes(
        self, suffixes: list[str], limits: Limit, controls: Sequence[Controls] | None = None
    ) -> list[list[int]]:
        """Token ids of each suffix and its end token."""
        encoded = []
        texts = self.encode_texts(suffixes, controls or controls_of_each(None, len(suffixes)))
        for ids, limit in zip(texts, limit_of_each(limits, len(texts))):
            ids = [*ids, self.tokenizer.eos_token_id]
            if limit is not None and len(ids) > limit:
                self.count_truncation("suffix", len(ids), limit)
                ids = ids[:limit]
            encoded.append(ids)
        return encoded

    def count_truncation(self, which: str, length: int, limit: int) -> None:
        """Count a text that was cut, and warn of the first of its kind."""
        if not self.truncation_counts[which]:
            logger.warning(
                "a %s of %d tokens was cut to the limit of %d; later ones are cut and counted in"
                " processor.truncation_counts without a word",
                which,
                length,
                limit,
            )
        self.truncation_counts[which] += 1

    def pad_rows(
        self, rows: list[list[Any]], value: Any, options: dict[str, Any], padded_length: int | None = None
    ) -> list[list[Any]]:
        """Pad rows to the longest one, or with `padding="max_length"` to at least `padded_length`."""
        padding = options.get("padding", True)
        if padding in (False, "do_not_pad"):
            return rows
        width = max((len(row) for row in rows), default=0)
        if padding == "max_length" and padded_length is not None:
            width = max(width, padded_length)
        multiple = options.get("pad_to_multiple_of") or 1
        width = -(-width // multiple) * multiple
        if options["padding_side"] == "left":
            return [[value] * (width - len(row)) + row for row in rows]
        return [row + [value] * (width - len(row)) for row in rows]


def limit_of_each(limits: Limit, texts: int) -> list[int | None]:
    """The limit of every text, from one for all or a list of them.

    Raises:
        ValueError: the list is of another length.
    """
    if limits is None or isinstance(limits, int):
        return [limits] * texts
    if len(limits) != texts:
        raise ValueError(f"{texts} texts but {len(limits)} limits")
    return list(limits)


def longest_limit(limits: Limit) -> int | None:
    """The largest limit, to which texts are padded; None if a text has none."""
    if limits is None or isinstance(limits, int):
        return limits
    known = [limit for limit in limits if limit is not None]
    return max(known) if known and len(known) == len(limits) else None


def without_path_objects(images: Any) -> Any:
    """Replace `Path` objects, in any nesting, by strings, which the image processor reads."""
    if isinstance(images, (list, tuple)):
        return [without_path_objects(image) for image in images]
    return str(images) if isinstance(images, Path) else images


def tokens_per_image(vision: str) -> int:
    """Number of tokens of one image of a SigLIP checkpoint, or the most of one that its image processor makes."""
    config, processor = vision_config_of(vision), AutoImageProcessor.from_pretrained(vision)
    return int(processor.max_num_patches if is_naflex(config) else most_image_tokens(config))  # type: ignore[attr-defined]
