"""The detection reward of arXiv 2302.08242, as its authors' code has it: matched boxes less duplicates.

At one threshold a prediction can match a true box of its label whose IoU is above the threshold. Each prediction
chooses its best true box, and each true box takes the best prediction that chose it. Other predictions that chose one
are duplicates, also where a second true box is free. Those that chose none cost nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))
# what the released function averages: its results are kept by the threshold with one decimal, later ones over earlier
RELEASED_THRESHOLDS = (0.5, 0.6, 0.6, 0.7, 0.7, 0.85, 0.85, 0.85, 0.95, 0.95)
DUPLICATE_WEIGHT, SMOOTHING = 0.3, 0.05

# like `{"box": [x0, y0, x1, y1], "label": str}`; corners in any order of the axes
Boxes = Sequence[Mapping]


class Matches(NamedTuple):
    """The matches of one image at one threshold.

    Attributes:
        match: sum of the class weights of true boxes that are matched.
        duplicates: sum of the class weights of duplicate predictions.
        matched: number of true boxes that are matched.
        ious: float[P], IoU with the true box that each prediction chose, duplicates included; 0 where it chose none.
    """

    match: float
    duplicates: float
    matched: int
    ious: np.ndarray

    @property
    def reward(self) -> float:
        """The reward at this threshold."""
        return self.match - DUPLICATE_WEIGHT * self.duplicates


@dataclass(frozen=True)
class ClassWeights:
    """A weight for each label, larger for rare ones; every label weighs 1 where nothing is known.

    Attributes:
        weights: by label.
        unseen: of any other label.
    """

    weights: Mapping[str, float]
    unseen: float = 1.0

    def __getitem__(self, label: str) -> float:
        """The weight of a label."""
        return self.weights.get(label, self.unseen)


def class_weights(counts: Mapping[str, int], smoothing: float = SMOOTHING) -> ClassWeights:
    """Weights 1 / (n + smoothing * sum of n), scaled so that their mean is 1.

    Args:
        counts: number of boxes of each label in the training set.
        smoothing: the larger, the more equal are the weights.
    """
    total = smoothing * sum(counts.values())
    if not total:
        return ClassWeights({})
    raw = {label: 1 / (count + total) for label, count in counts.items()}
    scale = len(raw) / sum(raw.values())
    return ClassWeights({label: scale * weight for label, weight in raw.items()}, scale / total)


def overlaps(found: Boxes, true: Boxes) -> np.ndarray:
    """IoU of every prediction with every true box, float[P, G]; 0 for a prediction with swapped corners.

    As in the authors' code areas are absolute values, and 1e-9 is added to each union.
    """
    a, b = (np.array([box["box"] for box in boxes], np.float64).reshape(-1, 4) for boxes in (found, true))
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.maximum(high - low, 0).prod(axis=-1)
    areas = [np.abs((boxes[:, 2:] - boxes[:, :2]).prod(axis=-1)) for boxes in (a, b)]
    return shared / (areas[0][:, None] + areas[1][None] - shared + 1e-9)


def match_boxes(found: Boxes, true: Boxes, weights: ClassWeights, threshold: float) -> Matches:
    """Match the predictions of an image at one threshold, which the IoU of a match is above.

    Args:
        found: predicted boxes.
        true: true boxes.
        weights: of the labels.
        threshold: of the IoU.
    """
    if not (found and true):
        return Matches(0.0, 0.0, 0, np.zeros(len(found)))
    ious = overlaps(found, true)
    alike = np.array([[one["label"] == other["label"] for other in true] for one in found])
    ious = np.where((ious > threshold) & alike, ious, 0.0)  # [P, G]
    chosen, best = ious.argmax(axis=1), ious.max(axis=1)  # the first of equal ones
    kept = np.zeros_like(ious)
    kept[np.arange(len(found)), chosen] = best
    takers = kept.argmax(axis=0)  # [G], the prediction that each true box takes
    taken = kept.max(axis=0) > 0
    winners = set(takers[taken].tolist())
    duplicates = [i for i in np.flatnonzero(best > 0).tolist() if i not in winners]
    match = sum(weights[true[i]["label"]] for i in np.flatnonzero(taken).tolist())
    return Matches(match, sum(weights[found[i]["label"]] for i in duplicates), int(taken.sum()), best)


def reward_parts(
    found: Boxes, true: Boxes, weights: ClassWeights, thresholds: Sequence[float] = THRESHOLDS
) -> tuple[float, float]:
    """Matches and duplicates of an image, each the mean over the thresholds of its sum of class weights."""
    every = [match_boxes(found, true, weights, threshold) for threshold in thresholds]
    return float(np.mean([one.match for one in every])), float(np.mean([one.duplicates for one in every]))


def detection_reward(
    found: Boxes, true: Boxes, weights: ClassWeights, thresholds: Sequence[float] = THRESHOLDS
) -> float:
    """The reward of an image: matches less 0.3 times duplicates, the mean over the thresholds.

    With `RELEASED_THRESHOLDS` it is what the released function returns.
    """
    match, duplicates = reward_parts(found, true, weights, thresholds)
    return match - DUPLICATE_WEIGHT * duplicates


def reached_ious(found: Boxes, true: Boxes, threshold: float = 0.5) -> np.ndarray:
    """IoU of each prediction with the true box of its label that it chose, 0 where none is above the threshold."""
    return match_boxes(found, true, ClassWeights({}), threshold).ious


def check_overlap(iou: float) -> float:
    """The option `--drop_duplicates`. Raises ValueError unless it is at least 0 and below 1."""
    if not 0 <= iou < 1:
        raise ValueError(f"--drop_duplicates is an IoU of at least 0 and below 1, not {iou:g}")
    return iou


def drop_duplicates(boxes: Sequence[dict], iou: float) -> list[dict]:
    """Boxes without those that repeat a better one of the same label.

    The better one has the higher `score`, or stands earlier in the answer where scores are equal or missing.

    Args:
        boxes: of one answer, `{"box", "label"}`, perhaps with `score`.
        iou: overlap above which two boxes of a label are one.

    Returns:
        Those that are kept, in the order of the answer.
    """
    order = sorted(range(len(boxes)), key=lambda i: -(boxes[i].get("score") or 0.0))
    ious, kept = overlaps(boxes, boxes), []
    for i in order:
        alike = (j for j in kept if (boxes[j].get("label") or "") == (boxes[i].get("label") or ""))
        if all(ious[i, j] <= iou for j in alike):
            kept.append(i)
    return [boxes[i] for i in sorted(kept)]
