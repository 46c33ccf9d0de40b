"""Exact match against any of several references."""

import datasets
import evaluate

_DESCRIPTION = "Share of predictions that equal one of their references."
_CITATION = ""
_KWARGS = """
Args:
    predictions: list of str. An empty answer is an answer: it is right only where a reference is empty too.
    references: list of str, or list of lists of str where several answers are right.
    lower: compare without regard to case (default True).
    strip: drop white space around both sides, and squeeze it inside (default True).
    return_scores: also return `scores`, 0.0 or 1.0 per prediction (default False).
Returns:
    exact_match: float in [0, 1].
"""


class ExactMatch(evaluate.Metric):
    """Exact string match, any reference counts."""

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
        self,
        predictions: list[str],
        references: list[list[str]] | list[str],
        lower: bool = True,
        strip: bool = True,
        return_scores: bool = False,
    ) -> dict[str, float | list[float]]:
        scores = []
        for index, (prediction, answers) in enumerate(zip(predictions, references, strict=True)):
            answers = [answers] if isinstance(answers, str) else answers
            if not answers:
                raise ValueError(f"prediction {index} has no reference: give at least one, '' if nothing is right")
            right = {normalise(answer, lower, strip) for answer in answers}
            scores.append(float(normalise(prediction, lower, strip) in right))
        result: dict[str, float | list[float]] = {"exact_match": sum(scores) / len(scores)}
        return result | {"scores": scores} if return_scores else result


def normalise(text: str, lower: bool, strip: bool) -> str:
    """Fold case and white space as asked."""
    text = " ".join(text.split()) if strip else text
    return text.lower() if lower else text
