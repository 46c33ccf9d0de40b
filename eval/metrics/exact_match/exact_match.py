"""Exact match against any of several references."""

from openpali.eval.scoring import answer_metric
from openpali.eval.scoring.answer_metric import Reference, by_type, keyed, match_scores, mean

_DESCRIPTION = "Share of predictions that equal one of their references."
_CITATION = ""
_KWARGS = """
Args:
    predictions: list of str. An empty answer matches only an empty reference.
    references: per question a str, a list of str where several answers are right, or {"answers": list of str,
        "type": str}.
    lower: ignore case (default True).
    strip: strip both sides, and collapse white space inside (default True).
    return_scores: also return `scores`, 0.0 or 1.0 per prediction (default False).
Returns:
    exact_match: float in [0, 1].
    exact_match_TYPE: likewise over the questions of each type.
"""


class ExactMatch(answer_metric.AnswerMetric):
    """Exact match with any reference."""

    documentation = _DESCRIPTION, _CITATION, _KWARGS

    def _compute(
        self,
        predictions: list[str],
        references: list[Reference],
        lower: bool = True,
        strip: bool = True,
        return_scores: bool = False,
    ) -> dict[str, float | list[float]]:
        scores = match_scores(predictions, references, lambda text: normalise(text, lower, strip))
        result: dict[str, float | list[float]] = {"exact_match": mean(scores)}
        result |= keyed("exact_match", by_type(scores, references))
        return result | {"scores": scores} if return_scores else result


def normalise(text: str, lower: bool, strip: bool) -> str:
    """Fold case and white space, each where requested."""
    text = " ".join(text.split()) if strip else text
    return text.lower() if lower else text
