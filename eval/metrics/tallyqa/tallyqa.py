"""Accuracy of TallyQA and CountBenchQA: exact counts, for simple and complex questions separately."""

from openpali.eval.scoring import answer_metric
from openpali.eval.scoring.answer_metric import Reference, by_type, keyed, match_scores, mean
from openpali.eval.scoring.answer_text import to_digits

_DESCRIPTION = """
Share of exact counts, after the words none, zero ... twenty have become digits. TallyQA has two published
scores: simple questions, which a detector could answer, and complex ones, about relations and attributes.
"""
_CITATION = """
@inproceedings{acharya2019tallyqa,
    title={TallyQA: Answering complex counting questions},
    author={Acharya, Manoj and Kafle, Kushal and Kanan, Christopher},
    booktitle={AAAI}, year={2019}}
"""
_KWARGS = """
Args:
    predictions: list of str. Only a whole answer is converted: "twenty one" and " three" do not change.
    references: per question a str, a list of str of which any counts, or {"answers": list of str, "type": str} with
        the type "simple" or "complex"; the training set and CountBenchQA have none.
    return_scores: also return `scores`, 0.0 or 1.0 per prediction (default False).
Returns:
    accuracy: float in [0, 1], over all questions.
    accuracy_simple, accuracy_complex, ...: over the questions of each type.
"""


class TallyQa(answer_metric.AnswerMetric):
    """Exactly right counts, by type."""

    documentation = _DESCRIPTION, _CITATION, _KWARGS

    def _compute(
        self, predictions: list[str], references: list[Reference], return_scores: bool = False
    ) -> dict[str, float | list[float]]:
        scores = match_scores(predictions, references, to_digits)
        result: dict[str, float | list[float]] = {"accuracy": mean(scores)}
        result |= keyed("accuracy", by_type(scores, references))
        return result | {"scores": scores} if return_scores else result
