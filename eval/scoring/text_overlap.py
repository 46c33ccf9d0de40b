"""Overlap of two texts: F1 of words, as in question answering, and chrF, as in translation."""

from collections import Counter

from openpali.eval.scoring.answer_text import vqav2_normalise

ORDER, BETA = 6, 2
"""Longest run of characters of chrF, and the weight of its recall."""


def token_f1(one: str, other: str) -> float:
    """F1 of the words of two answers after VQAv2's normalisation, in [0, 1]; 1 for two empty ones (SQuAD).

    >>> token_f1("a red ball", "the ball"), token_f1("two", "2")
    (0.6666666666666666, 1.0)
    """
    first, second = vqav2_normalise(one).split(), vqav2_normalise(other).split()
    common = (Counter(first) & Counter(second)).total()
    return 2 * common / (len(first) + len(second)) if first or second else 1.0


def chrf(text: str, reference: str) -> float:
    """chrF of a text, in 0..100, as sacrebleu computes it for one sentence (Popović 2015).

    Precision and recall of runs of 1 to 6 characters without white space are averaged over the lengths that both texts
    have; recall weighs twice.

    >>> round(chrf("the cat sat", "the cat sits"), 2)
    61.03
    """
    one, other = "".join(text.split()), "".join(reference.split())
    lengths = range(1, min(ORDER, len(one), len(other)) + 1)
    if not lengths:
        return 0.0
    precision = recall = 0.0
    for length in lengths:
        first, second = _runs(one, length), _runs(other, length)
        common = (first & second).total()
        precision += common / first.total() / len(lengths)
        recall += common / second.total() / len(lengths)
    if not precision + recall:
        return 0.0
    return 100 * (1 + BETA**2) * precision * recall / (BETA**2 * precision + recall)


def _runs(text: str, length: int) -> Counter[str]:
    return Counter(text[start : start + length] for start in range(len(text) - length + 1))
