"""Noise boxes behind the true ones: where they are, that their places have no loss, and that they are dropped."""

import random

import pytest
import torch
from PIL import Image

from openpali.data.collator import Collator
from openpali.data.example import Box
from openpali.data.tasks import load_task
from openpali.data.tasks.parts.noise_boxes import noise_boxes
from openpali.modeling.location_tokens import NOISE, parse_detections
from openpali.modeling.token_loss import IGNORE_INDEX

TRUE = [Box(0.1, 0.2, 0.4, 0.6, "dog"), Box(0.5, 0.5, 0.9, 0.9, "dog")]


def record(count=2):
    objects = [{"names": {"en": "dog"}, "box": box} for box in TRUE[:count]]
    return {"id": "1", "image": Image.new("RGB", (20, 24)), "objects": objects}


def made(rng, **options):
    found = load_task({"name": "detect", "classes": ["dog"]} | options).example(record(), rng)
    assert found is not None
    return found


def test_noise_lies_on_the_image_half_of_it_near_true_boxes():
    boxes = noise_boxes(TRUE, 2000, random.Random(0))
    assert all(0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1 for box in boxes)
    assert {box.label for box in boxes} == {NOISE}

    def near(box):
        middle = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
        return any(one.x0 <= middle[0] <= one.x1 and one.y0 <= middle[1] <= one.y1 for one in TRUE)

    # and some of the random ones by chance
    assert 0.5 < sum(map(near, boxes)) / 2000 < 0.8
    assert noise_boxes([], 3, random.Random(0)) != noise_boxes([], 3, random.Random(1))
    assert noise_boxes(TRUE, -1, random.Random(0)) == []


def test_a_target_is_filled_up_with_noise_that_is_no_truth():
    example = made(random.Random(0), noise_boxes=5)
    labels = [box.label for box in parse_detections(example.suffix).boxes]
    assert labels == ["dog", "dog", NOISE, NOISE, NOISE]
    assert example.supervised_places == 8
    assert len(example.boxes) == 2
    task = load_task({"name": "detect", "classes": ["dog"], "noise_boxes": 5})
    assert [box["label"] for box in task.prediction(example.suffix, example)] == ["dog", "dog"]
    assert made(random.Random(0), noise_boxes=2).supervised_places is None
    assert made(random.Random(0)).suffix == made(random.Random(0), noise_boxes=2).suffix


@pytest.mark.parametrize("family", ["pali3", "paligemma"])
@pytest.mark.parametrize("packed", [False, True])
def test_only_the_places_of_noise_have_no_loss(request, family, packed):
    if family == "pali3" and packed:
        return
    name = "tiny_processor" if family == "pali3" else "tiny_paligemma"
    found = request.getfixturevalue(name)
    processor = found if family == "pali3" else found[1]
    examples = [made(random.Random(0), noise_boxes=4), made(random.Random(1))]
    collator = Collator(processor, pack_length=600 if packed else None)
    labels = torch.as_tensor(collator(examples)["labels"]).flatten().tolist()
    kept = processor.decode([token for token in labels if token != IGNORE_INDEX])
    assert kept.count("<loc") == 16
    assert kept.count(NOISE) == 2
    assert kept.count(";") == 4


def test_options_that_contradict_each_other_are_refused():
    for options, message in (
        ({"noise_boxes": -1}, "noise_boxes is 0 or a number of boxes"),
        ({"noise_boxes": 4, "confidence": True}, "give one of them"),
        ({"noise_boxes": 4, "classes": ["noise"]}, "a class is called 'noise'"),
    ):
        with pytest.raises(ValueError, match=message):
            load_task({"name": "detect"} | options)
