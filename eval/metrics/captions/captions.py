"""CIDEr, BLEU and ROUGE-L of captions, by the COCO caption evaluation's own scorers."""

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from openpali.eval.scoring import answer_metric
from openpali.eval.scoring.answer_metric import Reference, keyed, mean
from openpali.eval.scoring.caption_tokenizer import tokenize_captions

_DESCRIPTION = """
The COCO caption evaluation (arXiv:1504.00325): CIDEr x 100, BLEU-1 to 4 over the whole set, and ROUGE-L, after Penn
Treebank tokenisation by Stanford's program. That needs Java; without it a plain tokenizer is used, and the result
says that it is not comparable with published numbers. Where references have types, such as the languages of XM3600,
every score is computed for each type separately and then averaged, so that each type has the same weight.
"""
_CITATION = """
@article{chen2015microsoft,
    title={Microsoft COCO captions: Data collection and evaluation server},
    author={Chen, Xinlei and Fang, Hao and Lin, Tsung-Yi and Vedantam, Ramakrishna and Gupta, Saurabh and others},
    journal={arXiv:1504.00325}, year={2015}}
"""
_KWARGS = """
Args:
    predictions: list of str. An empty caption scores 0.
    references: per image a str, a list of str, or {"answers": list of str, "type": str}. Either all have a type or
        none has. CIDEr weighs n-grams by how rare they are among the references of this call (of one type), so its
        value depends on the whole set, and is 0 for a single image.
    tokenizer: "ptb" (needs `java`), "plain", or "auto" (default): ptb where there is a `java`, else plain. It splits
        words at spaces and marks: Thai, Chinese and Japanese captions must have been split into words before.
    return_scores: also return `scores`, CIDEr x 100 per prediction (default False).
Returns:
    cider: float, x 100 as in papers.
    bleu_1, bleu_2, bleu_3, bleu_4: float in [0, 1]; from counts of the whole set, not a mean over captions.
    rouge_l: float in [0, 1].
    tokenizer: the tokenizer that was used.
    cider_TYPE: CIDEr x 100 of each type.
"""


class Captions(answer_metric.AnswerMetric):
    """CIDEr x 100, BLEU and ROUGE-L."""

    documentation = _DESCRIPTION, _CITATION, _KWARGS

    def _compute(
        self,
        predictions: list[str],
        references: list[Reference],
        tokenizer: str = "auto",
        return_scores: bool = False,
    ) -> dict[str, float | str | list[float]]:
        groups = rows_by_type(references)
        found, true, note = tokenize_captions(predictions, [one["answers"] for one in references], tokenizer)
        scores = [0.0] * len(predictions)
        parts: dict[str, dict[str, float]] = {}
        for kind, rows in groups.items():
            parts[kind], ciders = coco_scores([found[row] for row in rows], [true[row] for row in rows])
            for row, cider in zip(rows, ciders, strict=True):
                scores[row] = cider
        names = next(iter(parts.values()))
        result: dict[str, float | str | list[float]] = {
            name: mean([part[name] for part in parts.values()]) for name in names
        }
        result["tokenizer"] = note
        result |= keyed("cider", {kind: part["cider"] for kind, part in parts.items() if kind})
        return result | {"scores": scores} if return_scores else result


def rows_by_type(references: list[Reference]) -> dict[str, list[int]]:
    """Indices of the references of each type, sorted by type. Raises ValueError where only some have one."""
    kinds = [reference["type"] for reference in references]
    if not kinds:
        raise ValueError("nothing to score: give at least one prediction and its reference")
    if "" in kinds and any(kinds):
        raise ValueError(f"reference {kinds.index('')} has no type and others have: give all a type, or none")
    return {kind: [row for row, one in enumerate(kinds) if one == kind] for kind in sorted(set(kinds))}


def coco_scores(found: list[str], true: list[list[str]]) -> tuple[dict[str, float], list[float]]:
    """Scores of tokenised captions against their references, and CIDEr x 100 of each caption."""
    results, truths = {row: [caption] for row, caption in enumerate(found)}, dict(enumerate(true))
    cider, ciders = Cider().compute_score(truths, results)
    bleus, _ = Bleu(4).compute_score(truths, results, verbose=0)
    rouge, _ = Rouge().compute_score(truths, results)
    scores = {"cider": 100 * float(cider)}
    scores |= {f"bleu_{order}": float(bleu) for order, bleu in enumerate(bleus, 1)}
    return scores | {"rouge_l": float(rouge)}, [100 * float(value) for value in ciders]
