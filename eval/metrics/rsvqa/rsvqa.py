"""Accuracy of RSVQA, questions about remote sensing images: overall, and the mean over types of question."""

from openpali.eval.scoring import answer_metric
from openpali.eval.scoring.answer_metric import Reference, by_type, keyed, match_scores, mean
from openpali.eval.scoring.answer_text import fold

_DESCRIPTION = """
Share of questions answered exactly, over all of them (the paper's overall accuracy) and as the mean of the accuracies
on each type of question (its average accuracy), in which each type has the same weight. A third score
excludes the types with numbers as answers; papers differ in which of these they publish.
"""
_CITATION = """
@article{lobry2020rsvqa,
    title={RSVQA: Visual question answering for remote sensing data},
    author={Lobry, Sylvain and Marcos, Diego and Murray, Jesse and Tuia, Devis},
    journal={IEEE Transactions on Geoscience and Remote Sensing}, year={2020}}
"""
_KWARGS = """
Args:
    predictions: list of str. An empty answer matches only an empty reference.
    references: per question {"answers": list of str of which any counts, "type": str}; the types of the dataset are
        "presence", "comp", "count", "rural_urban" (low resolution), and "area" (high resolution). A str or a list of
        str has no type and counts in `accuracy` alone.
    lower: ignore case (default True, as in big_vision).
    strip: strip both sides (default True; big_vision does not).
    return_scores: also return `scores`, 0.0 or 1.0 per prediction (default False).
Returns:
    accuracy: float in [0, 1], over all questions.
    mean_accuracy: mean of the accuracies on each type; `accuracy` where no question has a type.
    mean_accuracy_without_numbers: likewise without "count" and "area"; absent where there is no other type.
    accuracy_presence, ...: over the questions of each type.
"""

NUMBERS = ("count", "area")


class RsVqa(answer_metric.AnswerMetric):
    """Exact match, by type of question."""

    documentation = _DESCRIPTION, _CITATION, _KWARGS

    def _compute(
        self,
        predictions: list[str],
        references: list[Reference],
        lower: bool = True,
        strip: bool = True,
        return_scores: bool = False,
    ) -> dict[str, float | list[float]]:
        scores = match_scores(predictions, references, lambda text: fold(text, lower, strip))
        types = by_type(scores, references)
        words = [value for kind, value in types.items() if kind not in NUMBERS]
        result: dict[str, float | list[float]] = {"accuracy": mean(scores)}
        result |= {"mean_accuracy": mean(list(types.values()) or scores)}
        result |= {"mean_accuracy_without_numbers": mean(words)} if words else {}
        result |= keyed("accuracy", types)
        return result | {"scores": scores} if return_scores else result
