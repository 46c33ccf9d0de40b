"""Masks are encoded by COCO's own code here, so that the metric is not tested against itself."""

import math

import numpy as np
import pytest
from pycocotools import mask as coco

from openpali.eval.answering.evaluate_task import load_metric

SIDE = 20


def rle(mask):
    encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}


def thing(x0, y0, x1, y1, label="", box=None, side=SIDE):
    """A rectangle, corners in pixels; its box may say something else."""
    mask = np.zeros((side, side), bool)
    mask[y0:y1, x0:x1] = True
    return {"box": [x / side for x in box or (x0, y0, x1, y1)], "label": label, "mask": rle(mask)}


def without_mask(label=""):
    return {"box": [0.0, 0.0, 1.0, 1.0], "label": label, "mask": None}


def score(found, true, **options):
    return load_metric("segmentation").compute(predictions=found, references=true, return_scores=True, **options)


def test_one_mask_against_one_by_hand():
    """4 x 10 of 10 x 10 pixels; 10 x 10 and 10 x 20 shifted; nothing."""
    found = [[thing(0, 0, 4, 10)], [thing(0, 0, 10, 10, box=(0, 5, 10, 20))], []]
    true = [[thing(0, 0, 10, 10)], [thing(0, 5, 10, 20)], [thing(0, 0, 10, 10)]]
    result = score(found, true)
    assert result["scores"] == [0.4, 50 / 200, 0.0]
    assert result["mean_iou"] == pytest.approx((0.4 + 0.25) / 3)
    assert result["cumulative_iou"] == pytest.approx((40 + 50 + 0) / (100 + 200 + 100))
    # the boxes: 0.4, equal, none
    assert result["box_accuracy_50"] == result["box_accuracy_75"] == pytest.approx(1 / 3)
    assert result["invalid"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(("bottom", "at_50", "at_75"), [(15, 1, 1), (14, 1, 0), (10, 1, 0), (9, 0, 0)])
def test_boxes_count_from_the_threshold_on(bottom, at_50, at_75):
    result = score([[thing(0, 0, 20, bottom)]], [[thing(0, 0, 20, 20)]])
    assert (result["box_accuracy_50"], result["box_accuracy_75"]) == (at_50, at_75)


def test_in_referring_the_first_prediction_counts_whatever_follows():
    wrong, right = thing(0, 0, 5, 5), thing(5, 5, 20, 20)
    true = [[thing(5, 5, 20, 20)]]
    assert score([[wrong, right]], true)["mean_iou"] == 0.0
    result = score([[right | {"label": "a dog"}, wrong]], true)
    assert (result["mean_iou"], result["cumulative_iou"]) == (1.0, 1.0)
    result = score([[without_mask(), right]], true)
    assert (result["mean_iou"], result["box_accuracy_50"], result["invalid"]) == (0.0, 0.0, 1.0)


def test_referring_can_be_said_where_references_have_labels():
    found, true = [[thing(0, 0, 20, 20, "cat"), thing(0, 0, 5, 5, "dog")]], [[thing(0, 0, 20, 20, "dog")]]
    assert score(found, true)["mean_iou"] == pytest.approx((25 / 400 + 0) / 2)
    assert score(found, true, referring=True)["mean_iou"] == 1.0
    assert score(found, [[thing(0, 0, 20, 20)]], referring=False)["mean_iou"] == 0.0


def test_several_things_are_matched_by_label_and_then_by_overlap():
    """The second dog fits both true dogs; it takes the one that it fits better, the first takes the other."""
    true = [[thing(0, 0, 10, 10, "dog"), thing(0, 6, 10, 16, "dog"), thing(15, 15, 20, 20, "cat")]]
    found = [[thing(0, 0, 10, 5, "dog"), thing(0, 5, 10, 15, "Dog "), thing(15, 15, 20, 20, "bird")]]
    result = score(found, true)
    ious = [90 / 110, 50 / 100, 0, 0]
    assert result["mean_iou"] == pytest.approx(sum(ious) / 4)
    # the cat that was not found and the bird that is none add their pixels to the union
    assert result["cumulative_iou"] == pytest.approx((90 + 50) / (110 + 100 + 25 + 25))
    assert result["box_accuracy_50"] == 0.5
    assert result["box_accuracy_75"] == 0.25
    assert result["invalid"] == 0.0


def test_of_each_label_the_larger_number_counts():
    dog = thing(0, 0, 10, 10, "dog")
    assert score([[dog, dog, dog]], [[dog]])["mean_iou"] == pytest.approx(1 / 3)
    assert score([[dog]], [[dog, dog, dog]])["mean_iou"] == pytest.approx(1 / 3)
    # one that misses makes one pair, not two
    assert score([[dog, thing(10, 10, 20, 20, "dog")]], [[dog, thing(10, 0, 20, 10, "dog")]])["mean_iou"] == 0.5


def test_images_with_nothing_to_find():
    dog = thing(0, 0, 10, 10, "dog")
    result = score([[], [dog], [dog]], [[], [], [dog]])
    assert result["scores"] == [1.0, 0.0, 1.0]
    assert (result["mean_iou"], result["invalid"]) == (0.5, 0.0)
    for found in ([[], []], [[dog], []]):
        nothing = score(found, [[], []])
        assert nothing["scores"] == [float(not masks) for masks in found]
        assert nothing["invalid"] == 0.0
        undefined = [nothing[key] for key in ("mean_iou", "cumulative_iou", "box_accuracy_50", "box_accuracy_75")]
        assert all(map(math.isnan, undefined))


def test_random_images_equal_brute_force():
    """Blobs of two labels; every pair's pixels are counted by numpy."""
    rng = np.random.default_rng(0)
    found, true, intersections, unions, ious, boxes = [], [], 0, 0, [], []
    for _ in range(40):
        predicted = rng.random((30, 40)) < rng.random()
        actual = rng.random((30, 40)) < rng.random()
        corners = np.sort(rng.random((2, 2, 2)), axis=1).reshape(2, 4)
        found.append([{"box": corners[0].tolist(), "label": "a", "mask": rle(predicted)}])
        true.append([{"box": corners[1].tolist(), "label": "a", "mask": rle(actual)}])
        intersections += (predicted & actual).sum()
        unions += (predicted | actual).sum()
        ious.append((predicted & actual).sum() / (predicted | actual).sum())
        boxes.append(float(coco.iou([xywh(corners[0])], [xywh(corners[1])], [0])[0, 0]))
    result = score(found, true)
    assert result["scores"] == pytest.approx(ious)
    assert result["mean_iou"] == pytest.approx(np.mean(ious))
    assert result["cumulative_iou"] == pytest.approx(intersections / unions)
    assert result["cumulative_iou"] != pytest.approx(result["mean_iou"], abs=0.01)
    assert result["box_accuracy_50"] == pytest.approx(np.mean(np.array(boxes) >= 0.5))


def xywh(box):
    return np.array([box[0], box[1], box[2] - box[0], box[3] - box[1]])


def test_counts_that_are_not_compressed():
    """Column by column: 2 columns of 3 rows, the second one inside."""
    plain = {"box": [0.5, 0, 1, 1], "label": "", "mask": {"size": [3, 2], "counts": [3, 3]}}
    mask = np.zeros((3, 2), bool)
    mask[:, 1] = True
    assert score([[plain]], [[plain | {"mask": rle(mask)}]])["mean_iou"] == 1.0


@pytest.mark.parametrize(
    ("found", "true", "message"),
    [
        (thing(0, 0, 5, 5), without_mask(), "reference 0: a reference needs a mask"),
        (thing(0, 0, 5, 5) | {"box": [0, 1]}, thing(0, 0, 5, 5), "prediction 0: a box is four finite numbers"),
        (thing(0, 0, 5, 5) | {"mask": {"size": [20]}}, thing(0, 0, 5, 5), "prediction 0: a mask is"),
        (thing(0, 0, 5, 5) | {"mask": {"size": [20, 20], "counts": "z#"}}, thing(0, 0, 5, 5), "prediction 0: a mask"),
        (thing(0, 0, 5, 5, side=10), thing(0, 0, 5, 5), "image 0 has masks of 10 x 10 and 20 x 20"),
    ],
)
def test_what_cannot_be_compared_is_named(found, true, message):
    with pytest.raises(ValueError, match=message):
        score([[found]], [[true]])
