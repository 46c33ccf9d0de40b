"""Relaxed accuracy of ChartQA: numbers have a tolerance of 5 %."""

from openpali.eval.scoring import answer_metric
from openpali.eval.scoring.answer_metric import Reference, by_type, keyed, mean
from openpali.eval.scoring.answer_text import fold

_DESCRIPTION = """
Share of answers within 5 % of the reference where both are numbers ("5%" is 0.05) and the reference is not 0, and
equal to it otherwise (ChartQA, section 5.1, after PlotQA). As published for ChartQA: the mean of the accuracies on
questions by annotators ("human") and by a model ("augmented"), where references have these types.
"""
_CITATION = """
@inproceedings{masry2022chartqa,
    title={ChartQA: A benchmark for question answering about charts with visual and logical reasoning},
    author={Masry, Ahmed and Long, Do and Tan, Jia Qing and Joty, Shafiq and Hoque, Enamul},
    booktitle={Findings of ACL}, year={2022}}
"""
_KWARGS = """
Args:
    predictions: list of str. An empty answer matches only an empty reference. "1,000" is text, no number.
    references: per question a str, a list of str of which any counts, or {"answers": list of str, "type": str} with
        the type "human" or "augmented". Either all have a type or none has.
    lower: ignore case in texts (default True, as in big_vision).
    strip: strip both sides (default True; big_vision does not).
    tolerance: largest relative error (default 0.05).
    return_scores: also return `scores`, 0.0 or 1.0 per prediction (default False).
Returns:
    relaxed_accuracy: float in [0, 1], the mean over types, each with the same weight; over all without types.
    relaxed_accuracy_human, relaxed_accuracy_augmented, ...: over the questions of each type.
    exact_match: share of predictions that equal an answer, over all questions.
"""


class RelaxedAccuracy(answer_metric.AnswerMetric):
    """Accuracy with a tolerance of 5 % for numbers."""

    documentation = _DESCRIPTION, _CITATION, _KWARGS

    def _compute(
        self,
        predictions: list[str],
        references: list[Reference],
        lower: bool = True,
        strip: bool = True,
        tolerance: float = 0.05,
        return_scores: bool = False,
    ) -> dict[str, float | list[float]]:
        kinds = [bool(reference["type"]) for reference in references]
        if any(kinds) and not all(kinds):
            raise ValueError(f"reference {kinds.index(False)} has no type and others have: give all a type, or none")
        scores, exact = [], []
        for prediction, reference in zip(predictions, references, strict=True):
            text = fold(prediction, lower, strip)
            answers = [fold(answer, lower, strip) for answer in reference["answers"]]
            scores.append(float(any(matches(text, answer, tolerance) for answer in answers)))
            exact.append(float(text in answers))
        types = by_type(scores, references)
        result: dict[str, float | list[float]] = {"relaxed_accuracy": mean(list(types.values()) or scores)}
        result |= keyed("relaxed_accuracy", types) | {"exact_match": mean(exact)}
        return result | {"scores": scores} if return_scores else result


def matches(prediction: str, answer: str, tolerance: float) -> bool:
    """Whether numbers are within the tolerance, or texts equal. 0 has no relative error, so it is text."""
    given, true = number(prediction), number(answer)
    if given is None or not true:
        return prediction == answer
    return abs(given - true) / abs(true) <= tolerance


def number(text: str) -> float | None:
    """The number in a text, per cent as a share; None where the text is no number."""
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
