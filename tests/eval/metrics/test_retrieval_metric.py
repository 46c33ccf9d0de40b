from pathlib import Path

import numpy as np
import pytest

from openpali.eval.answering.evaluate_task import load_metric

FIXTURE = np.load(Path(__file__).parents[2] / "fixtures" / "retrieval.npz")
IMAGES, TEXTS, OWN = (FIXTURE[f"in/{key}"] for key in ("zimg", "ztxt", "corr"))
EXPECTED = {
    "image_to_text_recall_at_1": float(FIXTURE["out/img2txt/Recall@1"]),
    "image_to_text_recall_at_5": float(FIXTURE["out/img2txt/Recall@5"]),
    "text_to_image_recall_at_1": float(FIXTURE["out/txt2img/Recall@1"]),
    "text_to_image_recall_at_5": float(FIXTURE["out/txt2img/Recall@5"]),
}


def test_similarities_and_embeddings_give_the_recalls_of_the_reference():
    metric = load_metric("retrieval")
    rows = {"predictions": (TEXTS @ IMAGES.T).tolist(), "references": OWN.tolist()}
    assert metric.compute(**rows, ks=(1, 5)) == pytest.approx(EXPECTED, abs=1e-6)
    rows["predictions"] = TEXTS.tolist()
    assert metric.compute(**rows, image_embeds=IMAGES, ks=(1, 5)) == pytest.approx(EXPECTED, abs=1e-6)
    assert "image_to_text_recall_at_10" in metric.compute(**rows, image_embeds=IMAGES.tolist())


def test_batches_and_chance():
    metric = load_metric("retrieval")
    for part in (slice(0, 5), slice(5, None)):
        metric.add_batch(predictions=(TEXTS[part] @ IMAGES.T).tolist(), references=OWN[part].tolist())
    result = metric.compute(ks=(1,), return_chance=True)
    assert result["text_to_image_recall_at_1"] == pytest.approx(EXPECTED["text_to_image_recall_at_1"])
    assert result["chance_text_to_image_recall_at_1"] == pytest.approx(1 / 6)
    assert result["chance_image_to_text_recall_at_1"] == pytest.approx(3 / 18)


def test_rows_of_different_lengths_and_unknown_images_are_refused():
    metric = load_metric("retrieval")
    with pytest.raises(ValueError, match=r"all predictions have the same length, not \[1, 2\]"):
        metric.compute(predictions=[[0.1, 0.2], [0.1]], references=[0, 1])
    with pytest.raises(ValueError, match="indices of the 2 images, from 0 to 1"):
        metric.compute(predictions=[[0.1, 0.2]], references=[2])
