"""Accuracy of short answers: OKVQA, A-OKVQA, VizWiz, GQA, NLVR2, AI2D, questions about videos."""

from openpali.eval.scoring import answer_metric
from openpali.eval.scoring.answer_metric import Reference, by_type, keyed, mean
from openpali.eval.scoring.answer_text import anls, fold

_DESCRIPTION = """
Exact match with a single right answer; with several, min(matches / 3, 1), as in A-OKVQA's evaluation
(https://github.com/allenai/aokvqa), without the average over leave-one-out sets. Answers are not normalised. Also the
share of answers that match any reference, and ANLS.
"""
_CITATION = """
@inproceedings{schwenk2022aokvqa,
    title={A-OKVQA: A benchmark for visual question answering using world knowledge},
    author={Schwenk, Dustin and Khandelwal, Apoorv and Clark, Christopher and Marino, Kenneth and Mottaghi, Roozbeh},
    booktitle={ECCV}, year={2022}}
"""
_KWARGS = """
Args:
    predictions: list of str. An empty answer matches only an empty reference.
    references: per question a str, a list of str, one for each annotator (repeated answers count repeatedly), or
        {"answers": list of str, "type": str}.
    lower: ignore case (default False, as in big_vision where the case can be known).
    strip: strip both sides (default True). big_vision does not, but then a stripped answer never equals a reference
        with surrounding space.
    return_scores: also return `scores`, in [0, 1] per prediction (default False).
Returns:
    accuracy: float in [0, 1].
    any_match: share of predictions that equal at least one answer.
    anls: similarity to the nearest answer in [0, 1], see the metric anls.
    accuracy_TYPE: accuracy of each type of question.
"""


class Vqa(answer_metric.AnswerMetric):
    """Exact match, or a third for each matching annotator."""

    documentation = _DESCRIPTION, _CITATION, _KWARGS

    def _compute(
        self,
        predictions: list[str],
        references: list[Reference],
        lower: bool = False,
        strip: bool = True,
        return_scores: bool = False,
    ) -> dict[str, float | list[float]]:
        scores, found, similar = [], [], []
        for prediction, reference in zip(predictions, references, strict=True):
            text = fold(prediction, lower, strip)
            answers = [fold(answer, lower, strip) for answer in reference["answers"]]
            matches = answers.count(text)
            scores.append(float(matches) if len(answers) == 1 else min(matches / 3, 1.0))
            found.append(float(matches > 0))
            similar.append(anls(text, answers))
        result: dict[str, float | list[float]] = {"accuracy": mean(scores)}
        result |= {"any_match": mean(found), "anls": mean(similar)}
        result |= keyed("accuracy", by_type(scores, references))
        return result | {"scores": scores} if return_scores else result
