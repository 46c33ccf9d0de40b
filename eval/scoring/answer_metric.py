"""Base class of the metrics of answers: forms of a reference, checks, and means by type of question."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypedDict

import datasets

from openpali.eval.scoring.documented_metric import TEXT, DocumentedMetric

FORMS = 'a str, a list of str, or {"answers": list of str, "type": str}'
NO_WORD = re.compile(r"\W+")


class Reference(TypedDict):
    """Reference answers of one question.

    Attributes:
        answers: at least one.
        type: of the question, for a mean per type; empty when there is none.
    """

    answers: list[str]
    type: str


class AnswerMetric(DocumentedMetric):
    """A metric of texts. Its `_compute` gets predictions as str and references as `Reference`.

    Import the module, not this class: `evaluate` takes the first metric that it finds in a file.
    """

    columns = {"predictions": TEXT, "references": {"answers": datasets.Sequence(TEXT), "type": TEXT}}

    def add_batch(self, *, predictions: Sequence[str], references: Sequence[Any], **kwargs: object) -> None:
        """Add answers, checked. A column has one type, so every reference becomes a dict.

        Raises:
            ValueError: a prediction is no text, a reference has no answer, or their numbers differ.
        """
        if len(predictions) != len(references):
            raise ValueError(f"{len(predictions)} predictions and {len(references)} references: give one for each")
        texts = [check_prediction(prediction, index) for index, prediction in enumerate(predictions)]
        answers = [read_reference(reference, index) for index, reference in enumerate(references)]
        super().add_batch(predictions=texts, references=answers, **kwargs)


def check_prediction(prediction: Any, index: int) -> str:
    """The prediction. Raises ValueError unless it is a text."""
    if not isinstance(prediction, str):
        remedy = "a missing answer is ''" if prediction is None else "turn it into a str"
        raise ValueError(f"prediction {index} is {prediction!r}, which is no text: {remedy}")
    return prediction


def read_reference(reference: Any, index: int) -> Reference:
    """The reference as a dict. Raises ValueError where it has none of the forms."""
    given = reference if isinstance(reference, dict) else {"answers": reference}
    answers, kind = given.get("answers"), given.get("type") or ""
    answers = [answers] if isinstance(answers, str) else answers
    if not isinstance(answers, Iterable) or set(given) - {"answers", "type"} or not isinstance(kind, str):
        raise ValueError(f"reference {index} is {reference!r}: it must be {FORMS}")
    answers = list(answers)
    if not answers:
        raise ValueError(f"prediction {index} has no reference: give at least one, '' if nothing is right")
    if wrong := [answer for answer in answers if not isinstance(answer, str)]:
        raise ValueError(f"reference {index} has the answer {wrong[0]!r}, which is no text: it must be {FORMS}")
    return {"answers": answers, "type": kind}


def mean(scores: Sequence[float]) -> float:
    """The mean. Raises ValueError for no scores."""
    if not scores:
        raise ValueError("nothing to score: give at least one prediction and its reference")
    return sum(scores) / len(scores)


def match_scores(
    predictions: Sequence[str], references: Sequence[Reference], form: Callable[[str], str]
) -> list[float]:
    """1.0 for each prediction that equals one of its answers, both after `form`; 0.0 for the others."""
    pairs = zip(predictions, references, strict=True)
    return [float(form(text) in {form(answer) for answer in reference["answers"]}) for text, reference in pairs]


def by_type(scores: Sequence[float], references: Sequence[Reference]) -> dict[str, float]:
    """Mean of each type of question, sorted by type; questions without a type do not count."""
    groups: dict[str, list[float]] = {}
    for score, reference in zip(scores, references, strict=True):
        if reference["type"]:
            groups.setdefault(reference["type"], []).append(score)
    return {kind: mean(groups[kind]) for kind in sorted(groups)}


def keyed(name: str, means: dict[str, float]) -> dict[str, float]:
    """Means by key: `accuracy` and the type "yes/no" make `accuracy_yes_no`."""
    return {f"{name}_{NO_WORD.sub('_', kind.lower())}": value for kind, value in means.items()}
