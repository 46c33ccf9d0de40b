"""What an object is, from answers about several views of it, as Objaverse Multiview is scored."""

import re
from collections.abc import Sequence

from openpali.eval.scoring import answer_metric
from openpali.eval.scoring.answer_metric import Reference, match_scores, mean
from openpali.eval.scoring.text_similarity import text_similarities

_DESCRIPTION = """
The answers about all views of an object are joined: of answers that are the same text the confidences are summed, and
the text with the largest sum is the object's (after ScoreAgg of Kabra et al. 2024, with the answer's probability as
its confidence). It is right if it equals a reference. The papers take the similarity of sentence embeddings
(Universal Sentence Encoder 4); `encoder` is one of your own, whose numbers are not comparable with theirs.
"""
_CITATION = """
@inproceedings{kabra2024leveraging,
    title={Leveraging VLM-based pipelines to annotate 3D objects},
    author={Kabra, Rishabh and Matthey, Loic and Lerchner, Alexander and Mitra, Niloy J.},
    booktitle={ICML}, year={2024}}
"""
_KWARGS = """
Args:
    predictions: list of str, compared without case, surrounding space, articles and a full stop at the end.
    references: per answer {"answers": list of str of which any is right, "type": str}; answers of the same type are
        about the same object.
    confidences: per answer a float of at least 0, its weight (default 1 each).
    encoder: folder or Hub name of a text encoder, for the similarity of the joined answer with the first reference
        (default None).
    return_scores: also return `scores`, 0.0 or 1.0 per prediction (default False).
Returns:
    accuracy: float in [0, 1], over the objects.
    view_accuracy: float in [0, 1], over all answers.
    similarity: float, cosine similarity averaged over the objects; only with `encoder`.
"""


class Multiview(answer_metric.AnswerMetric):
    """Answers joined by object."""

    documentation = _DESCRIPTION, _CITATION, _KWARGS
    by_confidence = True

    def _compute(
        self,
        predictions: list[str],
        references: list[Reference],
        confidences: list[float] | None = None,
        encoder: str | None = None,
        return_scores: bool = False,
    ) -> dict[str, float | list[float] | str]:
        scores = match_scores(predictions, references, normalise)
        objects = views([reference["type"] for reference in references])
        joined = [join(predictions, own, confidences) for own in objects]
        own = [references[places[0]] for places in objects]
        right = match_scores(joined, own, normalise)
        result: dict[str, float | list[float] | str] = {"accuracy": mean(right), "view_accuracy": mean(scores)}
        if encoder:
            similarities = text_similarities(encoder, joined, [reference["answers"][0] for reference in own])
            result |= {
                "similarity": mean(similarities),
                "encoder": f"{encoder} (not comparable with published numbers)",
            }
        return result | {"scores": scores} if return_scores else result


def views(types: Sequence[str]) -> list[list[int]]:
    """Indices of the answers about each object; an answer without a type is an object of its own."""
    members: dict[str, list[int]] = {}
    for index, kind in enumerate(types):
        members.setdefault(kind or f"\0{index}", []).append(index)
    return list(members.values())


def join(predictions: Sequence[str], places: Sequence[int], confidences: Sequence[float] | None = None) -> str:
    """The text with the largest sum of confidences, the first one of equals; empty answers do not count."""
    sums: dict[str, float] = {}
    for place in places:
        if text := normalise(predictions[place]):
            sums[text] = sums.get(text, 0.0) + (1.0 if confidences is None else confidences[place])
    return max(sums, key=sums.__getitem__, default="")


def normalise(text: str) -> str:
    """Fold case and white space, without a leading article and a full stop at the end."""
    return re.sub(r"^(a|an|the) ", "", " ".join(text.lower().split()).rstrip(". "))
