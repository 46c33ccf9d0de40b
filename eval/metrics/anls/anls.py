"""Average normalised Levenshtein similarity: DocVQA, InfographicVQA, ST-VQA."""

from openpali.eval.scoring import answer_metric
from openpali.eval.scoring.answer_metric import Reference, by_type, keyed, mean
from openpali.eval.scoring.answer_text import anls, fold

_DESCRIPTION = """
ANLS, for answers that are read from an image: 1 - d for the nearest reference where d < 0.5, else 0; d is the edit
distance divided by the length of the longer text. Case does not count, as in the evaluation of DocVQA
(https://rrc.cvc.uab.es) and in big_vision.
"""
_CITATION = """
@inproceedings{biten2019scene,
    title={Scene text visual question answering},
    author={Biten, Ali Furkan and Tito, Ruben and Mafla, Andres and Gomez, Lluis and Rusinol, Marcal and others},
    booktitle={ICCV}, year={2019}}
"""
_KWARGS = """
Args:
    predictions: list of str. An empty answer matches only an empty reference.
    references: per question a str, a list of str, or {"answers": list of str, "type": str}. The nearest answer counts.
    lower: compare without regard to case (default True).
    strip: strip both sides (default True; big_vision does not).
    return_scores: also return `scores`, in [0, 1] per prediction (default False).
Returns:
    anls: float in [0, 1].
    exact_match: share of predictions that equal an answer.
    anls_TYPE: ANLS of each type of question.
"""


class Anls(answer_metric.AnswerMetric):
    """Similarity to the nearest answer."""

    documentation = _DESCRIPTION, _CITATION, _KWARGS

    def _compute(
        self,
        predictions: list[str],
        references: list[Reference],
        lower: bool = True,
        strip: bool = True,
        return_scores: bool = False,
    ) -> dict[str, float | list[float]]:
        scores = []
        for prediction, reference in zip(predictions, references, strict=True):
            answers = [fold(answer, lower, strip) for answer in reference["answers"]]
            scores.append(anls(fold(prediction, lower, strip), answers))
        result: dict[str, float | list[float]] = {"anls": mean(scores)}
        # a single edit makes a similarity below 1, however long the text
        result |= {"exact_match": mean([float(score == 1.0) for score in scores])}
        result |= keyed("anls", by_type(scores, references))
        return result | {"scores": scores} if return_scores else result
