"""Accuracy of ScienceQA: the letter of the choice in "The answer is X."."""

import re

from openpali.eval.scoring import answer_metric
from openpali.eval.scoring.answer_metric import Reference, by_type, keyed, mean

_DESCRIPTION = """
Share of answers that begin with "The answer is X." and have the right letter, in any case. Text after the full stop,
such as an explanation, is ignored. It follows ScienceQA's own evaluation (https://github.com/lupantech/ScienceQA), but
an answer that begins otherwise is wrong, as in big_vision.
"""
_CITATION = """
@inproceedings{lu2022learn,
    title={Learn to explain: Multimodal reasoning via thought chains for science question answering},
    author={Lu, Pan and Mishra, Swaroop and Xia, Tony and Qiu, Liang and Chang, Kai-Wei and others},
    booktitle={NeurIPS}, year={2022}}
"""
_KWARGS = """
Args:
    predictions: list of str.
    references: per question the sentence ("The answer is B.") or the letter ("B"), as a str, a list of str of which
        any counts, or {"answers": list of str, "type": str}, such as the subject or the grade.
    return_scores: also return `scores`, 0.0 or 1.0 per prediction (default False).
Returns:
    accuracy: float in [0, 1].
    unparsed: share of the predictions that begin otherwise.
    accuracy_TYPE: accuracy of each type of question.
"""

SENTENCE = re.compile(r"the answer is ([a-z])\.")


class ScienceQa(answer_metric.AnswerMetric):
    """Accuracy of the letter."""

    documentation = _DESCRIPTION, _CITATION, _KWARGS

    def _compute(
        self, predictions: list[str], references: list[Reference], return_scores: bool = False
    ) -> dict[str, float | list[float]]:
        letters = [letter(prediction) for prediction in predictions]
        true = [truth(reference, index) for index, reference in enumerate(references)]
        scores = [float(one in right) for one, right in zip(letters, true, strict=True)]
        result: dict[str, float | list[float]] = {"accuracy": mean(scores)}
        result |= {"unparsed": letters.count(None) / len(letters)}
        result |= keyed("accuracy", by_type(scores, references))
        return result | {"scores": scores} if return_scores else result


def letter(text: str) -> str | None:
    """The lower-case letter of an answer; None where it does not begin with the sentence."""
    match = SENTENCE.match(text.lower())
    return match[1] if match else None


def truth(reference: Reference, index: int) -> set[str]:
    """The reference's letters. Raises ValueError for an answer without one."""
    letters = set()
    for answer in reference["answers"]:
        bare = answer.strip().lower()
        one = bare if re.fullmatch("[a-z]", bare) else letter(bare)
        if one is None:
            raise ValueError(f"reference {index} is {answer!r}: it must be a letter, 'B', or 'The answer is B.'")
        letters.add(one)
    return letters
