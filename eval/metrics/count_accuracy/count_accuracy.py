"""Accuracy of counting: number words become digits, then the strings must be equal (TallyQA, CountBenchQA)."""

import datasets
import evaluate

from openpali.eval.answer_text import to_digits

_DESCRIPTION = "Share of exactly right counts, after turning the words none, zero … twenty into digits."
_CITATION = """
@inproceedings{acharya2019tallyqa,
    title={TallyQA: Answering complex counting questions},
    author={Acharya, Manoj and Kafle, Kushal and Kanan, Christopher},
    booktitle={AAAI}, year={2019}}
"""
_KWARGS = """
Args:
    predictions: list of str. Only a whole answer is read as a number: "twenty one" and " three" stay as they are.
    references: list of str, or list of lists of str where several answers are right.
    return_scores: also return `scores`, 0.0 or 1.0 per prediction (default False).
Returns:
    count_accuracy: float in [0, 1].
"""


class CountAccuracy(evaluate.Metric):
    """Exactly right counts."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS,
            features=[
                datasets.Features({"predictions": text, "references": datasets.Sequence(text)}),
                datasets.Features({"predictions": text, "references": text}),
            ],
        )

    def _compute(
        self, predictions: list[str], references: list[list[str]] | list[str], return_scores: bool = False
    ) -> dict[str, float | list[float]]:
        scores = []
        for index, (prediction, counts) in enumerate(zip(predictions, references, strict=True)):
            counts = [counts] if isinstance(counts, str) else counts
            if not counts:
                raise ValueError(f"prediction {index} has no reference: give at least one count")
            scores.append(float(to_digits(prediction) in {to_digits(count) for count in counts}))
        result: dict[str, float | list[float]] = {"count_accuracy": sum(scores) / len(scores)}
        return result | {"scores": scores} if return_scores else result
