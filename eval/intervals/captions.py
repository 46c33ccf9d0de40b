"""CIDEr, BLEU and ROUGE-L as weighted sums over captions, for the bootstrap."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.rouge.rouge import Rouge

from openpali.eval.intervals.bootstrap import Statistic, mean_by_type, ratio
from openpali.eval.scoring.answer_metric import keyed, read_reference
from openpali.eval.scoring.caption_tokenizer import tokenize_captions

ORDERS = 4
# constants of pycocoevalcap's BLEU scorer against division by 0
_SMALL, _TINY = 1e-9, 1e-15


@dataclass(frozen=True)
class Bleu:
    """BLEU of one order, averaged over types with the same weight each.

    Attributes:
        order: longest n-grams.
        counts: float[N, 2 + 2 ORDERS] of each caption, see `bleu_counts`.
        types: bool[N, G], which captions are of which type.
    """

    order: int
    counts: np.ndarray
    types: np.ndarray

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """float[R] of weights float[R, N]."""
        sums = np.stack([(weights * one) @ self.counts for one in self.types.T])
        correct, guess = (sums[..., 2 + part : 2 + part + self.order] for part in (0, ORDERS))
        values = np.prod((correct + _TINY) / (guess + _SMALL), axis=-1) ** (1 / self.order)
        length = (sums[..., 0] + _TINY) / (sums[..., 1] + _SMALL)
        values *= np.exp(np.minimum(1 - 1 / length, 0))
        there = sums[..., 1] > 0
        return (values * there).sum(axis=0) / np.maximum(there.sum(axis=0), 1)


def bleu_counts(found: str, true: list[str]) -> list[float]:
    """Words, words of the reference of the nearest length, then by order: matching n-grams, and all n-grams."""
    scorer = BleuScorer(n=ORDERS)
    scorer += (found, true)
    (counts,) = scorer.ctest
    words = counts["testlen"]
    nearest = min((abs(length - words), length) for length in counts["reflen"])[1]
    return [words, nearest, *counts["correct"], *counts["guess"]]


def caption_statistics(name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Statistic]:
    """Statistics of the metric captions; CIDEr of each caption is its row's score."""
    references = [read_reference(row["reference"], index) for index, row in enumerate(rows)]
    types, scores = [one["type"] for one in references], [row["score"] for row in rows]
    found, true, _ = tokenize_captions([row["prediction"] for row in rows], [one["answers"] for one in references])
    everything = np.ones(len(rows), bool)
    counts = np.array([bleu_counts(*pair) for pair in zip(found, true, strict=True)], np.float64)
    columns = np.array([[kind == one for one in sorted(set(types))] for kind in types])
    rouge = [float(Rouge().calc_score([caption], some)) for caption, some in zip(found, true, strict=True)]
    made: dict[str, Statistic] = {"cider": mean_by_type(scores, everything, types)}
    made |= {f"bleu_{order}": Bleu(order, counts, columns) for order in range(1, ORDERS + 1)}
    made["rouge_l"] = mean_by_type(rouge, everything, types)
    for kind in filter(None, set(types)):
        (key,) = keyed("cider", {kind: 0.0})
        made[key] = ratio(scores * (mine := np.array([one == kind for one in types], np.float64)), mine)
    return made
