"""CIDEr of captions with the document frequencies of a set that is not the captions' own.

CIDEr weighs n-grams by how few images' references have them. A few captions say little about that: a reward takes the
frequencies of the training set (self-critical training, arXiv 1612.00563).
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pycocoevalcap.cider.cider_scorer import CiderScorer, cook_refs

from openpali.eval.scoring.caption_tokenizer import tokenize_captions


@dataclass(frozen=True)
class DocumentFrequencies:
    """How many images' references have each n-gram.

    Attributes:
        counts: by n-gram, a tuple of words.
        images: of the set.
    """

    counts: Counter
    images: int

    @classmethod
    def of(cls, references: Iterable[Sequence[str]], tokenizer: str = "plain") -> "DocumentFrequencies":
        """Count the n-grams of a set.

        Args:
            references: captions of each image.
            tokenizer: see `tokenize_captions`.
        """
        _, tokens, _ = tokenize_captions([], list(references), tokenizer)
        counts: Counter = Counter()
        for captions in tokens:
            counts.update({ngram for cooked in cook_refs(captions) for ngram in cooked})
        return cls(counts, len(tokens))

    def ciders(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], tokenizer: str = "plain"
    ) -> list[float]:
        """CIDEr x 100 of each caption; equal to the metric's scores for the set's own captions."""
        found, true, _ = tokenize_captions(predictions, references, tokenizer)
        scorer = FixedScorer(self)
        for caption, captions in zip(found, true, strict=True):
            scorer += (caption, captions)
        return [100 * float(score) for score in scorer.compute_cider()] if found else []


class FixedScorer(CiderScorer):
    """The scorer of the COCO caption evaluation, with given frequencies."""

    def __init__(self, frequencies: DocumentFrequencies) -> None:
        super().__init__()
        self.document_frequency = frequencies.counts
        self.given_length = math.log(max(frequencies.images, 1))

    @property
    def ref_len(self) -> float:
        """The logarithm of the number of images."""
        return self.given_length

    @ref_len.setter
    def ref_len(self, value: object) -> None:
        # the scorer would set that of its own captions
        pass
