"""What the processors of both families do alike: images of each text, limits that warn and count, padding.

Prefix and suffix are tokenised apart, as in the reference code, so that no token spans their border.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers.image_utils import is_valid_image
from transformers.processing_utils import MultiModalData, ProcessorMixin

from .control_tokens import Controls, controls_of_each, pieces, special_tokens
from .processing_offsets import NOWHERE, Span, replaced

logger = logging.getLogger(__name__)

IMAGE_TOKEN = "<image>"
LOCATION_TOKENS = [f"<loc{i:04d}>" for i in range(1024)]
SEGMENTATION_TOKENS = [f"<seg{i:03d}>" for i in range(128)]

# tokens of each text: one number for all, or one for each
Limit = int | Sequence[int | None] | None


class PrefixSuffixProcessor(ProcessorMixin):
    """Base of the processors.

    Attributes:
        tokenizer: has `image_token` as one token.
        image_token: the placeholder in texts.
        image_token_id: its id.
        image_seq_length: tokens of one image.
        truncation_counts: how many prefixes and suffixes were cut to their limit so far.
    """

    tokenizer: Any
    image_processor: Any
    image_token: str
    image_token_id: int
    image_seq_length: int
    truncation_counts: Counter[str]

    def check_image_token(self) -> None:
        """See that the tokenizer writes the placeholder as one token, by which images are placed.

        Raises:
            ValueError: if it does not.
        """
        ids = self.tokenizer([self.image_token * 2], add_special_tokens=False)["input_ids"][0]
        if ids != [self.image_token_id] * 2:
            raise ValueError(
                f"the tokenizer {self.tokenizer.name_or_path or type(self.tokenizer).__name__} has no"
                f" {self.image_token} token (it writes two of them as {len(ids)} tokens): let from_backbones add it,"
                f" or tokenizer.add_special_tokens({{'additional_special_tokens': ['{self.image_token}']}})"
            )

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs) -> str:
        """What stands for one image in the text that is tokenised: a placeholder for each of its tokens."""
        return self.image_token * self.image_seq_length

    def _get_num_multimodal_tokens(self, image_sizes: Sequence[Any] | None = None, **kwargs) -> MultiModalData:
        """Tokens of images of these sizes, for programs that plan their memory; here every image has as many."""
        if image_sizes is None:
            return MultiModalData()
        images = len(image_sizes)
        return MultiModalData(num_image_tokens=[self.image_seq_length] * images, num_image_patches=[1] * images)

    def token_facts(
        self,
        rows: list[list[int]],
        spans: list[list[Span]],
        texts: tuple[list[str], list[str]],
        options: dict[str, Any],
        full: int | None,
    ) -> dict[str, Any]:
        """What Transformers' processors tell of tokens when they are asked, padded as the tokens are.

        Args:
            rows: tokens of each example.
            spans: of each row, where `return_offsets_mapping` is asked for.
            texts: of each example, as given and with placeholders.
            options: of the call, merged.
            full: see `pad_rows`.

        Returns:
            As asked for: `mm_token_type_ids`: int[B, L], 1 on image tokens; `offset_mapping`: int[B, L, 2];
            `text_replacement_offsets`.
        """
        facts: dict[str, Any] = {}
        if options["return_mm_token_type_ids"]:
            kinds = [[int(token == self.image_token_id) for token in row] for row in rows]
            facts["mm_token_type_ids"] = self.pad_rows(kinds, 0, options["text_kwargs"], full)
        if spans:
            facts["offset_mapping"] = self.pad_rows(spans, NOWHERE, options["text_kwargs"], full)
        if options["return_text_replacement_offsets"]:
            facts["text_replacement_offsets"] = [
                replaced(text, marked, self.image_token, self.image_seq_length) for text, marked in zip(*texts)
            ]
        return facts

    def images_and_texts(
        self, images: Any, text: str | Sequence[str] | None, suffix: str | Sequence[str] | None
    ) -> tuple[list[list[Any]], list[str], list[str] | None]:
        """ImageFolder of each text, texts and suffixes as lists of one length, whatever form they came in.

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
        """ImageFolder of each text by its placeholders, where they account for every image."""
        counts = [text.count(self.image_token) for text in texts]
        return counts if sum(counts) == images else None

    def marked(self, text: str, images: int) -> str:
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

    def check_offsets(self, asked: bool, controls: Sequence[Controls]) -> None:
        """Raise ValueError where places are asked for of texts that are tokenised in pieces."""
        if asked and set(controls) - {"all"}:
            raise ValueError("return_offsets_mapping needs controls='all': other texts are tokenised in pieces")

    def unmarked(self, text: str, images: int) -> str:
        """A text without the placeholders of its images in front, where they would be put anyhow."""
        return text.removeprefix(self.image_token * images)

    def expand_placeholders(self, ids: list[int]) -> list[int]:
        """Every placeholder repeated for each of its image tokens."""
        expanded: list[int] = []
        for token in ids:
            expanded.extend([token] * (self.image_seq_length if token == self.image_token_id else 1))
        return expanded

    def encode_texts(self, texts: Sequence[str], controls: Sequence[Controls]) -> list[list[int]]:
        """Token ids of texts, no special tokens added, of which each holds the control tokens that it may."""
        return self.encode_pieces(self.cut(texts, controls))

    def cut(self, texts: Sequence[str], controls: Sequence[Controls]) -> list[list[str]]:
        """Each text in pieces, none of which has a control token that it may not have."""
        special = special_tokens(self.tokenizer, self.image_token)
        return [pieces(text, special, which) for text, which in zip(texts, controls, strict=True)]

    def encode_pieces(self, cut: list[list[str]]) -> list[list[int]]:
        """Token ids of texts in pieces, no special tokens added."""
        flat = [piece for parts in cut for piece in parts]
        found = self.tokenizer(flat, add_special_tokens=False)["input_ids"] if flat else []
        # some tokenizers begin an empty text with a space
        ids = iter(ids if piece else [] for ids, piece in zip(found, flat))
        return [[token for _ in parts for token in next(ids)] for parts in cut]

    def encode_suffixes(
        self, suffixes: list[str], limits: Limit, controls: Sequence[Controls] | None = None
    ) -> list[list[int]]:
        """Token ids of each suffix and its end token."""
        encoded = []
        found = self.encode_texts(suffixes, controls or controls_of_each(None, len(suffixes)))
        for ids, limit in zip(found, limit_of_each(limits, len(found))):
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
        self, rows: list[list[Any]], value: Any, options: dict[str, Any], full: int | None = None
    ) -> list[list[Any]]:
        """Rows of one width: the longest's, or with `padding="max_length"` at least `full`."""
        padding = options.get("padding", True)
        if padding in (False, "do_not_pad"):
            return rows
        width = max((len(row) for row in rows), default=0)
        if padding == "max_length" and full is not None:
            width = max(width, full)
        multiple = options.get("pad_to_multiple_of") or 1
        width = -(-width // multiple) * multiple
        if (options.get("padding_side") or self.tokenizer.padding_side) == "left":
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
    """To which width texts are padded; None if one has no limit."""
    if limits is None or isinstance(limits, int):
        return limits
    known = [limit for limit in limits if limit is not None]
    return max(known) if known and len(known) == len(limits) else None


def without_path_objects(images: Any) -> Any:
    """Paths as strings, which is how the image processor knows them, in any nesting."""
    if isinstance(images, (list, tuple)):
        return [without_path_objects(image) for image in images]
    return str(images) if isinstance(images, Path) else images


def without_limits(tokenizer: Any) -> Any:
    """The tokenizer without truncation and padding that an earlier use left in its file.

    A tokenizer keeps the options of its last call when it is saved, and Transformers' processors take them for
    their defaults: prompts would be cut to the length that, for instance, SigLIP's captions had.
    """
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    for option in ("max_length", "truncation_strategy", "stride"):
        tokenizer.init_kwargs.pop(option, None)
    tokenizer.model_max_length = int(1e30)
    return tokenizer
