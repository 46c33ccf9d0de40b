"""Accuracy of pairs of questions, as MMVP is scored: a pair counts when both of its questions are answered right."""

from openpali.eval.scoring import answer_metric
from openpali.eval.scoring.answer_metric import Reference, match_scores, mean

_DESCRIPTION = """
Share of pairs of which both questions are answered right. Both are the same question about two images that differ in
what it asks for, with two choices. So a model that cannot tell the images apart has half of the questions right and no
pair; one that guesses has a quarter of the pairs.
"""
_CITATION = """
@inproceedings{tong2024eyes,
    title={Eyes wide shut? Exploring the visual shortcomings of multimodal LLMs},
    author={Tong, Shengbang and Liu, Zhuang and Zhai, Yuexiang and Ma, Yi and LeCun, Yann and Xie, Saining},
    booktitle={CVPR}, year={2024}}
"""
_KWARGS = """
Args:
    predictions: list of str, compared without case, surrounding space and a full stop at the end.
    references: per question {"answers": list of str of which any is right, "type": str}; questions of the same type
        are a pair.
    return_scores: also return `scores`, 0.0 or 1.0 per prediction (default False).
Returns:
    pair_accuracy: float in [0, 1], over the pairs; a question without its partner does not count.
    accuracy: float in [0, 1], over all questions.
    single_questions: str, only where there are questions without a partner.
"""


class PairAccuracy(answer_metric.AnswerMetric):
    """Pairs whose questions are both right."""

    documentation = _DESCRIPTION, _CITATION, _KWARGS

    def _compute(
        self, predictions: list[str], references: list[Reference], return_scores: bool = False
    ) -> dict[str, float | list[float] | str]:
        scores = match_scores(predictions, references, normalise)
        found = pairs([reference["type"] for reference in references])
        both = [min(scores[one], scores[other]) for one, other in found]
        if not both:
            raise ValueError("no pair has both of its questions: give references with a type that two of them share")
        result: dict[str, float | list[float] | str] = {"pair_accuracy": mean(both), "accuracy": mean(scores)}
        if alone := len(scores) - 2 * len(both):
            result["single_questions"] = f"{alone}, which count in accuracy alone"
        return result | {"scores": scores} if return_scores else result


def pairs(types: list[str]) -> list[tuple[int, int]]:
    """Indices of the two questions of each pair, in the order of the first ones.

    Raises:
        ValueError: three questions have the same type.
    """
    members: dict[str, list[int]] = {}
    for index, kind in enumerate(types):
        if kind:
            members.setdefault(kind, []).append(index)
    if large := next((kind for kind, own in members.items() if len(own) > 2), None):
        raise ValueError(f"{len(members[large])} questions have the type {large!r}: a pair has two")
    return [(own[0], own[1]) for own in members.values() if len(own) == 2]


def normalise(text: str) -> str:
    """Fold case and white space, without a full stop at the end."""
    return " ".join(text.lower().split()).rstrip(". ")
