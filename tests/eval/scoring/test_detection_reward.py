"""The detection reward against the authors' own code (big_vision), and boxes that repeat each other."""

from pathlib import Path

import numpy as np
import pytest

from openpali.eval.scoring.detection_reward import (
    RELEASED_THRESHOLDS,
    THRESHOLDS,
    check_overlap,
    class_weights,
    detection_reward,
    drop_duplicates,
    match_boxes,
    reached_ious,
)

FIXTURE = np.load(Path(__file__).parents[2] / "fixtures" / "detection_reward.npz")
WEIGHTS = class_weights({str(label): int(count) for label, count in enumerate(FIXTURE["in/class_counts"])})
# float32 there; rewards are about 1 for each box
NEAR = {"abs": 1e-6, "rel": 1e-6}


def boxes(kind, *place):
    """The boxes of a sequence that count, those with a confidence, and their numbers."""
    corners, labels, sure = (FIXTURE[f"{kind}_{part}"][place] for part in ("boxes", "labels", "confs"))
    kept = np.flatnonzero(sure > 0)
    return [{"box": corners[i].tolist(), "label": str(labels[i])} for i in kept], kept


def sequences(part):
    """Predictions and true boxes of every sequence, its place, and the numbers of its predictions."""
    for place in np.ndindex(FIXTURE[f"{part}in/pred_boxes"].shape[:2]):
        found, kept = boxes(f"{part}in/pred", *place)
        yield found, boxes(f"{part}in/gt", place[0])[0], place, kept


def test_classes_weigh_as_in_the_authors_code():
    ours = [WEIGHTS[str(label)] for label in range(80)]
    assert ours == pytest.approx(FIXTURE["out/class_weights"].tolist(), rel=1e-6)
    assert sum(ours) == pytest.approx(80)
    # a label that was never counted is the rarest
    assert WEIGHTS["unicorn"] > max(ours)
    assert class_weights({})["dog"] == 1


@pytest.mark.parametrize("part", ["", "loo/"])
def test_rewards_are_those_of_the_authors_code(part):
    count = 0
    for found, true, place, kept in sequences(part):
        expected = FIXTURE[f"{part}out/reward_mean10"][place], FIXTURE[f"{part}out/reward_as_code"][place]
        assert detection_reward(found, true, WEIGHTS) == pytest.approx(expected[0], **NEAR), place
        assert detection_reward(found, true, WEIGHTS, RELEASED_THRESHOLDS) == pytest.approx(expected[1], **NEAR), place
        for i, threshold in enumerate(THRESHOLDS):
            one, at = match_boxes(found, true, WEIGHTS, threshold), (i, *place)
            assert one.reward == pytest.approx(FIXTURE[f"{part}out/reward_thr"][at], **NEAR), at
            assert one.matched == FIXTURE[f"{part}out/num_matches_thr"][at], at
            assert one.duplicates == pytest.approx(FIXTURE[f"{part}out/nms_penalty_thr"][at], **NEAR), at
        ious, correct = np.zeros(10), np.zeros(10)
        ious[kept] = reached_ious(found, true)
        correct[kept] = 1 + (ious[kept] > 0)
        assert ious == pytest.approx(FIXTURE[f"{part}out/match_iou"][place], abs=1e-6)
        assert (correct == FIXTURE[f"{part}out/correct"][place]).all(), place
        count += 1
    assert count == 30


def box(x0, label="dog", **score):
    return {"box": [x0, 0.0, x0 + 0.5, 0.5], "label": label} | score


def test_the_best_of_repeated_boxes_is_kept():
    near, other = box(0.05), box(0.05, "cat")
    assert drop_duplicates([box(0.0), near, other], 0.7) == [box(0.0), other]
    assert drop_duplicates([box(0.0, score=0.2), box(0.05, score=0.9)], 0.7) == [box(0.05, score=0.9)]
    # an overlap of 0.45 / 0.55
    assert drop_duplicates([box(0.0), near], 0.82) == [box(0.0), near]
    assert drop_duplicates([box(0.0), near], 0.81) == [box(0.0)]
    assert drop_duplicates([], 0.5) == []


def test_an_overlap_is_below_one():
    assert check_overlap(0.0) == 0
    with pytest.raises(ValueError, match="at least 0 and below 1, not 70"):
        check_overlap(70)
