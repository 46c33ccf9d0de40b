"""Accuracy of counting: number words become digits, then the strings must be equal (TallyQA, CountBenchQA)."""

from openpali.eval.scoring import answer_metric
from openpali.eval.scoring.answer_metric import Reference, match_scores, mean
from openpali.eval.scoring.answer_text import to_digits

_DESCRIPTION = "Share of exactly right counts, after turning the words none, zero … twenty into digits."
_CITATION = """
@inproceedings{acharya2019tallyqa,
    title={TallyQA: Answering complex counting questions},
    author={Acharya, Manoj and Kafle, Kushal and Kanan, Christopher},
    booktitle={AAAI}, year={2019}}
"""
_KWARGS = """
Args:
    predictions: list of str. Only a whole answer is converted: "twenty one" and " three" do not change.
    references: per question a str, a list of str where several answers are right, or {"answers": list of str,
        "type": str}, whose type is ignored (the metric tallyqa has types).
    return_scores: also return `scores`, 0.0 or 1.0 per prediction (default False).
Returns:
    count_accuracy: float in [0, 1].
"""


class CountAccuracy(answer_metric.AnswerMetric):
    """Exactly right counts."""

    documentation = _DESCRIPTION, _CITATION, _KWARGS

    def _compute(
        self, predictions: list[str], references: list[Reference], return_scores: bool = False
    ) -> dict[str, float | list[float]]:
        scores = match_scores(predictions, references, to_digits)
        result: dict[str, float | list[float]] = {"count_accuracy": mean(scores)}
        return result | {"scores": scores} if return_scores else result
