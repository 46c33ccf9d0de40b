"""The reward of each kind of metric is the metric's own score, and boxes have matches and duplicates."""

import random

import numpy as np
import pytest
from PIL import Image
from tiny_mask_vqvae import save_codec

from openpali.data.example import Box, Example
from openpali.data.files.config import ConfigError
from openpali.data.masks.objects import located
from openpali.data.tasks import load_task
from openpali.eval.answering.evaluate_task import METRICS, load_metric
from openpali.eval.answering.predictions import json_value
from openpali.eval.scoring.detection_reward import ClassWeights, class_weights
from openpali.modeling.location_tokens import format_detections
from openpali.recipes.rewards.parts import RewardParts, make_parts, part_weights

PICTURE = Image.new("RGB", (8, 8))
DOG, CAT = Box(0.0, 0.0, 0.5, 0.5, "dog"), Box(0.25, 0.25, 1.0, 1.0, "cat")
FAR = Box(0.5, 0.5, 1.0, 1.0, "dog")


class Said:
    """A run that keeps what it says."""

    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)


def example(number, *references, boxes=()):
    return Example(str(number), "t", (PICTURE,), "prompt", references[0] if references else "", references, boxes)


def written(*boxes):
    return format_detections(located(box) for box in boxes)


TEXTS = ["three dogs", "30", "yes", "a dog"]
TRUE = [("three dogs", "3 dogs"), ("31", "30.5"), ("no", "yes"), ("a cat",)]


@pytest.mark.parametrize("metric", ["exact_match", "vqa", "anls", "relaxed_accuracy", "count_accuracy", "tallyqa"])
def test_answers_have_the_metrics_own_scores(metric):
    task = load_task({"name": "plain", "metric": metric, "metric_key": "accuracy"})
    examples = [example(i, *true) for i, true in enumerate(TRUE)]
    parts = RewardParts(task, part_weights(task, {}))
    found = parts.of(examples, TEXTS, [2, 1, 1, 2])
    own = load_metric(metric).compute(predictions=TEXTS, references=[list(one) for one in TRUE], return_scores=True)
    assert own
    assert found["reward"] == found["score"] == pytest.approx([float(score) for score in own["scores"]])


@pytest.mark.parametrize("folder", sorted(path.parent.name for path in METRICS.glob("*/*.py")))
def test_every_metric_of_a_task_scores_each_example(folder):
    # retrieval is of encoders; masks and boxes are tested below
    if folder not in ("retrieval", "segmentation", "detection"):
        assert "scores" in (load_metric(folder).inputs_description or ""), folder


@pytest.mark.parametrize("metric", ["cider", "captions"])
def test_captions_have_the_metrics_scores_by_the_training_sets_n_grams(metric):
    true = [("a dog on a mat", "a brown dog"), ("two cats",), ("a bird in a tree",), ("a red house",)]
    texts = ["a dog on the mat", "two cats", "a fish", "a house"]
    task = load_task({"name": "plain", "metric": metric, "metric_key": "cider"})
    examples, run = [example(i, *one) for i, one in enumerate(true)], Said()
    parts = make_parts(task, {}, examples, 0, run)  # pyright: ignore
    own = load_metric(metric).compute(
        predictions=texts, references=[list(one) for one in true], tokenizer="plain", return_scores=True
    )
    assert own
    assert parts.of(examples, texts, [1] * 4)["reward"] == pytest.approx(own["scores"])
    assert max(own["scores"]) > 50
    # of one caption alone, where the metric would find every n-gram in every image
    assert parts.of(examples[:1], texts[:1], [1])["reward"] == pytest.approx(own["scores"][:1])
    assert "n-grams weigh by the captions of 4 training examples" in run.said[0]


def test_boxes_have_matches_less_duplicates_and_the_metrics_f1():
    task = load_task({"name": "detect"})
    truth = example(0, boxes=(DOG, CAT))
    texts = [written(DOG, CAT), written(DOG, DOG), written(FAR), "", written(CAT) + " and so on"]
    lengths = [10, 10, 5, 1, 5]
    found = RewardParts(task, part_weights(task, {})).of([truth] * 5, texts, lengths)
    assert found["match"] == pytest.approx([2, 1, 0, 0, 0], abs=0.21)
    assert found["duplicates"] == pytest.approx([0, 1, 0, 0, 0], abs=0.11)
    assert found["reward"] == pytest.approx([a - 0.3 * b for a, b in zip(found["match"], found["duplicates"])])
    weights = part_weights(task, {"score": 2, "length": 0.1})
    scored = RewardParts(task, weights).of([truth] * 5, texts, lengths)
    predictions = [task.prediction(text, truth) for text in texts]
    own = load_metric("detection").compute(
        predictions=predictions, references=[task.reference(truth)] * 5, return_scores=True
    )
    assert own
    assert scored["score"] == pytest.approx(own["scores"])
    assert scored["reward"] == pytest.approx([2 * f1 - 0.1 * n for f1, n in zip(own["scores"], lengths)])


def test_rare_classes_weigh_more():
    task, run = load_task({"name": "detect"}), Said()
    examples = [example(i, boxes=(DOG,)) for i in range(9)] + [example(9, boxes=(CAT,))]
    parts = make_parts(task, {}, examples, 0, run)  # pyright: ignore
    expected = class_weights({"dog": 9, "cat": 1})
    assert (parts.classes["dog"], parts.classes["cat"]) == (expected["dog"], expected["cat"])
    assert expected["cat"] > 2 * expected["dog"]
    assert "dog 9, cat 1" in run.said[0]
    # fewer, at equal distances
    assert make_parts(task, {}, examples, 2, run).classes["cat"] == class_weights({"dog": 2})["cat"]  # pyright: ignore


def test_boxes_reach_overlaps_by_their_labels():
    parts = RewardParts(load_task({"name": "detect", "confidence": True}), {"match": 1}, ClassWeights({}))
    reached = parts.ious(example(0, boxes=(DOG, CAT)), written(DOG, Box(0.25, 0.25, 1, 1, "dog")))
    assert [iou for _, iou in reached] == pytest.approx([1, 0], abs=0.01)


def test_unknown_parts_are_named():
    with pytest.raises(ConfigError, match=r"unknown part 'macth', did you mean 'match'|unknown part 'macth'"):
        part_weights(load_task({"name": "detect"}), {"macth": 1})


def test_masks_have_the_metrics_own_scores(tmp_path):
    codec = save_codec(tmp_path / "codec")
    task = load_task({"name": "segment", "codec": str(codec)})
    mask = np.zeros((16, 16), bool)
    mask[2:9, 3:12] = True
    thing = {"names": {"en": "dog"}, "box": Box(3 / 16, 2 / 16, 12 / 16, 9 / 16), "mask": mask}
    record = {"id": "1", "image": Image.new("RGB", (16, 16)), "objects": [thing]}
    truth = task.example(record, random.Random(0))
    assert truth is not None
    texts = [truth.suffix, truth.suffix.replace("dog", "cat"), "nothing"]
    found = RewardParts(task, part_weights(task, {})).of([truth] * 3, texts, [22] * 3)
    own = load_metric("segmentation").compute(
        predictions=[json_value(task.prediction(text, truth)) for text in texts],
        references=[json_value(task.reference(truth))] * 3,
        return_scores=True,
    )
    assert own
    assert found["reward"] == pytest.approx(own["scores"])
    assert found["reward"][2] == 0
