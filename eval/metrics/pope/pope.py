"""POPE: object hallucination, by accuracy of yes and no, and the share of yes."""

from openpali.eval.scoring import answer_metric
from openpali.eval.scoring.answer_metric import Reference, by_type, keyed, mean

_DESCRIPTION = """
Accuracy of yes and no about objects that are or are not in the image, with precision, recall and F1 of yes, and the
share of yes: it is right for half of the questions, so a larger share indicates hallucinated objects. The whole
answer must be the word; anything else is wrong and not valid.
"""
_CITATION = """
@inproceedings{li2023evaluating,
    title={Evaluating object hallucination in large vision-language models},
    author={Li, Yifan and Du, Yifan and Zhou, Kun and Wang, Jinpeng and Zhao, Wayne Xin and Wen, Ji-Rong},
    booktitle={EMNLP}, year={2023}}
"""
_KWARGS = """
Args:
    predictions: list of str, compared without case and surrounding space.
    references: per question "yes" or "no", likewise, as a str, a list of one, or {"answers": list of str,
        "type": str} with the type "random", "popular" or "adversarial", by which objects were selected.
    return_scores: also return `scores`, 0.0 or 1.0 per prediction (default False).
Returns:
    accuracy: float in [0, 1].
    yes_share, no_share: shares of the predictions that are yes and no.
    valid: share of the predictions that are either.
    precision, recall, f1: of yes; 0 where undefined.
    accuracy_random, accuracy_popular, accuracy_adversarial, ...: over the questions of each type.
"""


class Pope(answer_metric.AnswerMetric):
    """Yes or no."""

    documentation = _DESCRIPTION, _CITATION, _KWARGS

    def _compute(
        self, predictions: list[str], references: list[Reference], return_scores: bool = False
    ) -> dict[str, float | list[float]]:
        answers = [prediction.strip().lower() for prediction in predictions]
        true = [truth(reference, index) for index, reference in enumerate(references)]
        scores = [float(word == right) for word, right in zip(answers, true, strict=True)]
        result: dict[str, float | list[float]] = {"accuracy": mean(scores)}
        yes, no = answers.count("yes"), answers.count("no")
        result |= {"yes_share": yes / len(answers), "no_share": no / len(answers), "valid": (yes + no) / len(answers)}
        hits = sum(word == right == "yes" for word, right in zip(answers, true, strict=True))
        wanted = true.count("yes")
        result |= {"precision": share(hits, yes), "recall": share(hits, wanted), "f1": share(2 * hits, yes + wanted)}
        result |= keyed("accuracy", by_type(scores, references))
        return result | {"scores": scores} if return_scores else result


def truth(reference: Reference, index: int) -> str:
    """The reference's word. Raises ValueError unless it is yes or no."""
    words = {answer.strip().lower() for answer in reference["answers"]}
    if words not in ({"yes"}, {"no"}):
        raise ValueError(f"reference {index} is {reference['answers']}: POPE's answers are 'yes' or 'no', one of them")
    return words.pop()


def share(part: int, whole: int) -> float:
    """The share of a part; 0 where the whole is 0."""
    return part / whole if whole else 0.0
