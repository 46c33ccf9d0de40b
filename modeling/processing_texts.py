"""What the processors of both families do alike: pictures of each text, limits that warn and count, padding.

Prefix and suffix are tokenised apart, as in the reference code, so that no token spans their border.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers.image_utils import is_valid_image
from transformers.processing_utils import ProcessorMixin

from .plain_text import Controls, controls_of_each, pieces, special_tokens

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

    def pictures_and_texts(
        self, images: Any, text: str | Sequence[str] | None, suffix: str | Sequence[str] | None
    ) -> tuple[list[list[Any]], list[str], list[str] | None]:
        """Pictures of each text, texts and suffixes as lists of one length, whatever form they came in.

        Raises:
            ValueError: if their numbers do not fit together.
        """
        nested = self._pictures_per_text(images, text)
        texts = [""] * len(nested) if text is None else [text] if isinstance(text, str) else list(text)
        suffixes = [suffix] if isinstance(suffix, str) else suffix
        if suffixes is not None and len(suffixes) != len(texts):
            raise ValueError(f"{len(texts)} texts but {len(suffixes)} suffixes")
        return nested, texts, None if suffixes is None else list(suffixes)

    def _pictures_per_text(self, images: Any, text: str | Sequence[str] | None) -> list[list[Any]]:
        if images is None:
            if text is None:
                raise ValueError("neither text nor images were given")
            return [[] for _ in ([text] if isinstance(text, str) else text)]
        fetched: Any = self.image_processor.fetch_images(without_path_objects(images))
        if is_valid_image(fetched):
            fetched = [fetched]
        if all(isinstance(pictures, (list, tuple)) for pictures in fetched):
            nested = [list(pictures) for pictures in fetched]
        elif isinstance(text, str):
            nested = [list(fetched)]
        elif text is not None and (counts := self._placeholder_counts(text, len(fetched))):
            rest = iter(fetched)
            nested = [[next(rest) for _ in range(count)] for count in counts]
        else:
            nested = [[picture] for picture in fetched]
        number_of_texts = len(nested) if text is None else 1 if isinstance(text, str) else len(text)
        if len(nested) != number_of_texts:
            raise ValueError(
                f"{number_of_texts} texts but pictures for {len(nested)}: give one picture or one list of"
                " pictures for each text"
            )
        return nested

    def _placeholder_counts(self, texts: Sequence[str], pictures: int) -> list[int] | None:
        """Pictures of each text by its placeholders, where they account for every picture."""
        counts = [text.count(self.image_token) for text in texts]
        return counts if sum(counts) == pictures else None

    def marked(self, text: str, pictures: int) -> str:
        """The text with one placeholder for each of its pictures, in front where it has none.

        Raises:
            ValueError: if it has another number of placeholders.
        """
        placeholders = text.count(self.image_token)
        if placeholders == 0:
            return self.image_token * pictures + text
        if placeholders != pictures:
            raise ValueError(f"{placeholders} {self.image_token} placeholders but {pictures} pictures in {text!r}")
        return text

    def unmarked(self, text: str, pictures: int) -> str:
        """A text without the placeholders of its pictures in front, where they would be put anyhow."""
        return text.removeprefix(self.image_token * pictures)

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
        self, rows: list[list[int]], value: int, options: dict[str, Any], full: int | None = None
    ) -> list[list[int]]:
        """Rows of one width: the longest's, or with `padding="max_length"` at least `full`."""
        padding = options.get("padding", True)
        if padding in (False, "do_not_pad"):
            return rows
        width = max((len(row) for row in rows), default=0)
        if padding == "max_length" and full is not None:
            width = max(width, full)
        multiple = options.get("pad_to_multiple_of") or 1
        width = -(-width // multiple) * multiple
        if options.get("padding_side", self.tokenizer.padding_side) == "left":
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
