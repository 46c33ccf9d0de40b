"""CIDEr of captions, by the COCO caption evaluation's own scorer."""

from pycocoevalcap.cider.cider import Cider

from openpali.eval.scoring import answer_metric
from openpali.eval.scoring.answer_metric import Reference
from openpali.eval.scoring.caption_tokenizer import tokenize_captions

_DESCRIPTION = "CIDEr x 100 after Penn Treebank tokenisation, as in the COCO caption evaluation."
_CITATION = """
@inproceedings{vedantam2015cider,
    title={CIDEr: Consensus-based image description evaluation},
    author={Vedantam, Ramakrishna and Lawrence Zitnick, C and Parikh, Devi},
    booktitle={CVPR}, year={2015}}
"""
_KWARGS = """
Args:
    predictions: list of str.
    references: per image a str, a list of str, or {"answers": list of str, "type": str}, whose type is ignored
        (the metric captions has types). N-grams are weighed by how rare they are among the references of
        this call, so the value depends on the whole set, and one image alone scores 0.
    tokenizer: "ptb" (needs `java`), "plain", or "auto" (default): ptb where there is a `java`, else plain.
    return_scores: also return `scores`, CIDEr x 100 per prediction (default False).
Returns:
    cider: float, x 100 as in papers.
    tokenizer: the tokenizer that was used; a plain one is marked as not comparable with published numbers.
"""


class CiderMetric(answer_metric.AnswerMetric):
    """CIDEr x 100."""

    documentation = _DESCRIPTION, _CITATION, _KWARGS

    def _compute(
        self,
        predictions: list[str],
        references: list[Reference],
        tokenizer: str = "auto",
        return_scores: bool = False,
    ) -> dict[str, float | str | list[float]]:
        if not predictions:
            raise ValueError("nothing to score: give at least one prediction and its reference")
        found, true, note = tokenize_captions(predictions, [one["answers"] for one in references], tokenizer)
        results = {index: [caption] for index, caption in enumerate(found)}
        truths = dict(enumerate(true))
        score, scores = Cider().compute_score(truths, results)
        result: dict[str, float | str | list[float]] = {
            "cider": 100 * float(score),
            "tokenizer": note,
        }
        return result | {"scores": [100 * float(value) for value in scores]} if return_scores else result
