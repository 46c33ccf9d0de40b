"""CIDEr of captions, by the COCO caption evaluation's own scorer."""

import datasets
import evaluate
from pycocoevalcap.cider.cider import Cider

from openpali.eval.caption_text import tokenize_captions

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
    references: list of lists of str, or list of str. N-grams are weighed by how rare they are among the
        references of this call, so the value depends on the whole set, and one picture alone scores 0.
    tokenizer: "ptb" (needs `java`), "plain", or "auto" (default): ptb where there is a `java`, else plain.
    return_scores: also return `scores`, CIDEr x 100 per prediction (default False).
Returns:
    cider: float, x 100 as in papers.
    tokenizer: what split the words; a plain result says that it cannot be compared with published numbers.
"""


class CiderMetric(evaluate.Metric):
    """CIDEr x 100."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS,
            features=[
                datasets.Features({"predictions": text, "references": datasets.Sequence(text)}),
                datasets.Features({"predictions": text, "references": text}),
            ],
        )

    def _compute(
        self,
        predictions: list[str],
        references: list[list[str]] | list[str],
        tokenizer: str = "auto",
        return_scores: bool = False,
    ) -> dict[str, float | str | list[float]]:
        groups = [[captions] if isinstance(captions, str) else list(captions) for captions in references]
        if empty := [index for index, captions in enumerate(groups) if not captions]:
            raise ValueError(f"prediction {empty[0]} has no reference: CIDEr needs at least one")
        found, true, note = tokenize_captions(predictions, groups, tokenizer)
        results = {index: [caption] for index, caption in enumerate(found)}
        truths = dict(enumerate(true))
        score, scores = Cider().compute_score(truths, results)
        result: dict[str, float | str | list[float]] = {
            "cider": 100 * float(score),
            "tokenizer": note,
        }
        return result | {"scores": [100 * float(value) for value in scores]} if return_scores else result
