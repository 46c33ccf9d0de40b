"""From scenes with masks to the metric, the file and the page, with answers that are known."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco
from tiny_mask_vqvae import tiny
from tiny_models import tiny_pali3

from openpali.data.mixture import TaskDataset
from openpali.data.sources import load_source
from openpali.data.tasks import load_task
from openpali.eval.answering.decoding import Answer
from openpali.eval.answering.evaluate_task import evaluate_task
from openpali.eval.answering.prediction_file import PredictionFile
from openpali.eval.report.page import gallery_images, write_report

COUNT = 8


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    """Sixteen codes for masks of 16 px; it is random, so that what it reads is far from what it wrote."""
    folder = tmp_path_factory.mktemp("codec") / "codec"
    tiny(image_size=16, codebook_size=128).eval().save_pretrained(folder)
    return folder


def answered(monkeypatch, codec, name, answer):
    """Result and dataset of a task on scenes with one or two drawings, all answers made from the examples."""

    def fake(model, processor, examples, *options):
        for i, example in enumerate(examples):
            yield i, Answer(answer(example))

    monkeypatch.setattr("openpali.eval.answering.predictions.generate_answers", fake)
    monkeypatch.setenv("OPENPALI_CACHE", str(codec.parent))
    source = load_source({"name": "emoji", "split": "test", "size": 32, "objects": [1, 2], "length": COUNT})
    dataset = TaskDataset(source, load_task({"name": name, "codec": str(codec)}))
    return evaluate_task(*tiny_pali3(), dataset, dataset.task, progress=False), dataset


def pixels(masks):
    return [coco.decode(one.get("mask", one)).astype(bool) for one in masks]


def test_referring_scores_are_those_of_the_decoded_pixels(monkeypatch, codec):
    result, dataset = answered(monkeypatch, codec, "refer", lambda example: example.suffix)
    shared = united = 0
    for row in result.predictions:
        (found,), (true,) = pixels(row["predicted_boxes"]), pixels(row["masks"])
        assert row["score"] == pytest.approx((found & true).sum() / (found | true).sum())
        assert (true == pixels(dataset[row["index"]].masks)[0]).all()
        shared, united = shared + (found & true).sum(), united + (found | true).sum()
    assert result.metrics["cumulative_iou"] == pytest.approx(shared / united)
    assert result.score == pytest.approx(np.mean([row["score"] for row in result.predictions]))
    assert 0 < result.score < 1
    # the boxes are right but for the rounding of their tokens
    assert result.metrics["box_accuracy_75"] == 1.0
    assert result.metrics["invalid"] == 0.0


@pytest.mark.parametrize("name", ["refer", "segment"])
def test_answers_without_masks_count_as_nothing(monkeypatch, codec, name):
    spoilt = {"0": "<loc0001>", "1": "a dog", "2": "", "3": "<loc0900><loc0900><loc0100><loc0100>" + "<seg000>" * 16}
    result, _ = answered(monkeypatch, codec, name, lambda example: spoilt[str(len(example.prefix) % 4)])
    metrics = {key: value for key, value in result.metrics.items() if key != "examples"}
    keys = ("mean_iou", "cumulative_iou", "box_accuracy_50", "box_accuracy_75")
    assert metrics == dict.fromkeys(keys, 0.0) | {"invalid": 1.0}


def test_masks_go_through_the_file_and_onto_the_page(monkeypatch, codec, tmp_path):
    result, dataset = answered(monkeypatch, codec, "segment", lambda example: example.suffix)
    store = PredictionFile(tmp_path / "predictions.jsonl", {})
    store.replace(result.predictions)
    rows = [json.loads(line) for line in store.path.read_text().split("\n")[:-1]]
    assert rows == result.predictions
    assert all(len(row["masks"]) == len(row["boxes"]) == len(row["reference"]) > 0 for row in rows)
    page = write_report(tmp_path / "report.html", "Masks", [result], gallery_images(result, dataset)).read_text()
    assert page.count('<div class="drawing') == page.count('<img class="masks"') == len(rows)
    assert "ground-truth box and mask" in page
