"""Image-text retrieval: recall at k in both directions."""

import datasets
import numpy as np
import torch

from openpali.eval.scoring import documented_metric
from openpali.eval.scoring.recall import KS, chance_at_k, recall_at_k

_DESCRIPTION = (
    "Recall at k: a text finds its own image, and an image any of its own texts, among the first k by similarity."
)
_CITATION = """
@inproceedings{thapliyal2022crossmodal,
    title={Crossmodal-3600: A Massively Multilingual Multimodal Evaluation Dataset},
    author={Thapliyal, Ashish V. and Pont-Tuset, Jordi and Chen, Xi and Soricut, Radu},
    booktitle={EMNLP}, year={2022}}
"""
_KWARGS = """
Args:
    predictions: per text its similarities to all n images, list of float[n]. Larger is nearer; ties are broken by
        index.
    references: list of int, the index of each text's own image, from 0 to n - 1.
    image_embeds: embeddings of the n images, float[n, D]; then predictions are embeddings of the texts, list of
        float[D], and inner products are the similarities (default None).
    ks: ranks that count (default 1, 5, 10).
    return_chance: also return the recalls of random orders, `chance_text_to_image_recall_at_1` and so on (default
        False).
Returns:
    image_to_text_recall_at_1, text_to_image_recall_at_1, ...: float in [0, 1] for every k. An image without
        texts is a candidate, but no query.
"""


class Retrieval(documented_metric.DocumentedMetric):
    """Recall at k of texts and images."""

    documentation = _DESCRIPTION, _CITATION, _KWARGS
    columns = {"predictions": datasets.Sequence(datasets.Value("float32")), "references": datasets.Value("int64")}

    def _compute(
        self,
        predictions: list[list[float]],
        references: list[int],
        image_embeds: np.ndarray | list[list[float]] | None = None,
        ks: tuple[int, ...] = KS,
        return_chance: bool = False,
    ) -> dict[str, float]:
        lengths = {len(row) for row in predictions}
        if len(lengths) != 1:
            raise ValueError(f"all predictions have the same length, not {sorted(lengths)}")
        rows, own = torch.tensor(predictions, dtype=torch.float32), torch.tensor(references)
        # with unit vectors as embeddings of the images, a row of similarities is the embedding of its text
        images = torch.eye(rows.shape[1]) if image_embeds is None else torch.as_tensor(np.asarray(image_embeds))
        result = recall_at_k(images.to(rows), rows, own, ks)
        chances = chance_at_k(own, ks, len(images)) if return_chance else {}
        return result | {f"chance_{key}": value for key, value in chances.items()}
