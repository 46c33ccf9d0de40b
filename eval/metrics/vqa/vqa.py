"""Accuracy of short answers: OKVQA, A-OKVQA, VizWiz, GQA, NLVR2, AI2D, questions about videos."""

from openpali.eval.scoring import answer_metric
from openpali.eval.scoring.answer_metric import Reference, by_type, keyed, mean
from openpali.eval.scoring.answer_text import anls, fold

_DESCRIPTION = """
Exact match with a single right answer; with several, min(matches / 3, 1), as A-OKVQA's evaluation counts
(https://github.com/allenai/aokvqa), without leaving any out. Answers are not normalised. Beside it the share of
answers that match any reference, and ANLS.
"""
_CITATION = """
@inproceedings{schwenk2022aokvqa,
    title={A-OKVQA: A benchmark for visual question answering using world knowledge},
    author={Schwenk, Dustin and Khandelwal, Apoorv and Clark, Christopher and Marino, Kenneth and Mottaghi, Roozbeh},
    booktitle={ECCV}, year={2022}}
"""
_KWARGS = """
Args:
    predictions: list of str. An empty answer is an answer: it is right only where a reference is empty too.
    references: per question a str, a list of str, every one an answer that somebody gave (the same one counts as
        often as it stands there), or {"answers": list of str, "type": str}.
    lower: compare without regard to case (default False, as the authors do where the case can be known).
    strip: drop space around both sides (default True). The authors keep it, but an answer that was stripped could
        then never equal a reference that was not.
    return_scores: also return `scores`, in [0, 1] per prediction (default False).
Returns:
    accuracy: float in [0, 1].
    any_match: share of predictions that equal at least one answer.
    anls: similarity to the nearest answer in [0, 1], see the metric anls.
    accuracy_TYPE: accuracy over the questions of each type that is given.
"""


class Vqa(answer_metric.AnswerMetric):
    """Exact match, and a third for each person who agrees."""

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
