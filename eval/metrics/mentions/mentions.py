"""Share of answers that mention something, such as a person, by any of several words."""

import re

from openpali.eval.scoring import answer_metric
from openpali.eval.scoring.answer_metric import Reference, by_type, keyed, mean

WORD = re.compile(r"\w+")

_DESCRIPTION = """
Share of answers that have one of their reference words as a whole word. With words for people and images of people it
is how often a caption names the person, or how often "is there a person in the image?" is answered by yes.
"""
_CITATION = ""
_KWARGS = """
Args:
    predictions: list of str. Case does not matter; "postman" does not mention "man".
    references: per answer a str, a list of str of which any counts, or {"answers": list of str, "type": str}. A
        reference may be several words.
    return_scores: also return `scores`, 0.0 or 1.0 per prediction (default False).
Returns:
    mentions: float in [0, 1].
    mentions_TYPE: likewise over the answers of each type.
"""


class Mentions(answer_metric.AnswerMetric):
    """Whole words anywhere in the answer."""

    documentation = _DESCRIPTION, _CITATION, _KWARGS

    def _compute(
        self, predictions: list[str], references: list[Reference], return_scores: bool = False
    ) -> dict[str, float | list[float]]:
        scores = [float(mentions(text, one["answers"])) for text, one in zip(predictions, references, strict=True)]
        result: dict[str, float | list[float]] = {"mentions": mean(scores)}
        result |= keyed("mentions", by_type(scores, references))
        return result | {"scores": scores} if return_scores else result


def mentions(text: str, words: list[str]) -> bool:
    """Whether a text has one of these words, or sequences of words."""
    found = in_spaces(text)
    return any(in_spaces(word) in found for word in words if word.strip())


def in_spaces(text: str) -> str:
    """The words of a text in lower case, with a space before and after each."""
    return f" {' '.join(WORD.findall(text.lower()))} "
