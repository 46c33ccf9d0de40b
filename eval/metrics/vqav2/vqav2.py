"""Accuracy of VQAv2 and TextVQA: ten annotators' answers, of which three matches make a score of 1."""

from openpali.eval.scoring import answer_metric
from openpali.eval.scoring.answer_metric import Reference, by_type, keyed, mean
from openpali.eval.scoring.answer_text import vqav2_normalise, vqav2_space

_DESCRIPTION = """
Accuracy of the VQA evaluation (https://visualqa.org/evaluation.html), for VQAv2 and TextVQA: min(matches / 3, 1),
averaged over the ten sets of nine annotators' answers. Answers are compared after the official normalisation (case,
articles, punctuation, contractions, number words up to ten). Where all ten annotators agree only white space is
normalised, as in the official code, so "Yes" does not match "yes" then.
"""
_CITATION = """
@inproceedings{goyal2017making,
    title={Making the V in VQA matter: Elevating the role of image understanding in visual question answering},
    author={Goyal, Yash and Khot, Tejas and Summers-Stay, Douglas and Batra, Dhruv and Parikh, Devi},
    booktitle={CVPR}, year={2017}}
"""
_KWARGS = """
Args:
    predictions: list of str. An empty answer matches only references that normalise to nothing.
    references: per question the answers of ten annotators, a list of str, or {"answers": list of str, "type": str}
        with the type of answer ("yes/no", "number", "other").
    return_scores: also return `scores`, in [0, 1] per prediction (default False).
Returns:
    accuracy: float in [0, 1].
    accuracy_yes_no, ...: likewise over the questions of each type.
"""

ANNOTATORS = 10


class Vqav2(answer_metric.AnswerMetric):
    """VQA accuracy with ten annotators."""

    documentation = _DESCRIPTION, _CITATION, _KWARGS

    def _compute(
        self, predictions: list[str], references: list[Reference], return_scores: bool = False
    ) -> dict[str, float | list[float]]:
        for index, reference in enumerate(references):
            if len(reference["answers"]) != ANNOTATORS:
                raise ValueError(
                    f"reference {index} has {len(reference['answers'])} answers: this protocol takes ten annotators'; "
                    "the metric vqa takes any number"
                )
        scores = [score(text, reference["answers"]) for text, reference in zip(predictions, references, strict=True)]
        result: dict[str, float | list[float]] = {"accuracy": mean(scores)}
        result |= keyed("accuracy", by_type(scores, references))
        return result | {"scores": scores} if return_scores else result


def score(prediction: str, answers: list[str]) -> float:
    """Mean of min(matches / 3, 1) over the leave-one-out sets of answers."""
    prediction, answers = vqav2_space(prediction), [vqav2_space(answer) for answer in answers]
    if len(set(answers)) > 1:
        prediction, answers = vqav2_normalise(prediction), [vqav2_normalise(answer) for answer in answers]
    matches = [answer == prediction for answer in answers]
    return sum(min((sum(matches) - match) / 3, 1.0) for match in matches) / len(matches)
