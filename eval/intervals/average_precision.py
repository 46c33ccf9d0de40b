"""COCO's mean average precision of weighted images, for the bootstrap.

Predicted boxes are matched to ground-truth boxes within an image, so matches are the same in every resample; only the
weights of the images in the ranking change. With weights of 1 it is the mAP of the metric `detection`, up to rounding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from openpali.eval.scoring.boxes import box_ious
from openpali.eval.scoring.image_order import image_order

THRESHOLDS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0, 1, 101)
_MOST_BOXES = 100  # of an image and label


@dataclass(frozen=True)
class RankedBoxes:
    """The predicted boxes of one label, by falling confidence.

    Attributes:
        images: int[D], the image of each.
        right: bool[T, D], whether it matches a ground-truth box at each IoU threshold.
        true_counts: float[N], ground-truth boxes of each image.
    """

    images: np.ndarray
    right: np.ndarray
    true_counts: np.ndarray

    def precision(self, weights: np.ndarray) -> np.ndarray:
        """Average precision float[R] of weights float[R, N]; nan where no ground-truth box was drawn."""
        wanted = weights @ self.true_counts
        drawn = weights[:, self.images]
        found = np.maximum(np.cumsum(drawn, axis=1), 1e-12)
        total = np.zeros(len(weights))
        for right in self.right:
            hits = np.cumsum(drawn * right, axis=1)
            best = np.maximum.accumulate((hits / found)[:, ::-1], axis=1)[:, ::-1]
            recall = hits / np.maximum(wanted, 1e-12)[:, None]
            # how many of the 101 levels of recall each box is the first to reach
            levels = np.searchsorted(_RECALLS, recall.ravel(), side="right").reshape(recall.shape)
            total += (np.diff(levels, axis=1, prepend=0) * best).sum(axis=1) / len(_RECALLS)
        return np.where(wanted > 0, total / len(self.right), np.nan)


@dataclass(frozen=True)
class MeanAveragePrecision:
    """The mean over the labels with a ground-truth box among the drawn images; 0 where there is none."""

    labels: tuple[RankedBoxes, ...]

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """float[R] of weights float[R, N]."""
        values = np.array([one.precision(weights) for one in self.labels]).reshape(len(self.labels), len(weights))
        there = ~np.isnan(values)
        return np.nansum(values, axis=0) / np.maximum(there.sum(axis=0), 1)


def map_statistics(found: Sequence[list[dict[str, Any]]], true: Sequence[list[dict[str, Any]]]) -> dict[str, Any]:
    """mAP at IoU 0.50:0.95 and at 0.50, of boxes with folded labels and scores."""
    names = sorted({box["label"] for boxes in true for box in boxes})
    order = image_order(found, true)
    ranked = [rank(found, true, name, order) for name in names]
    half = tuple(RankedBoxes(one.images, one.right[:1], one.true_counts) for one in ranked)
    return {"map": MeanAveragePrecision(tuple(ranked)), "map50": MeanAveragePrecision(half)}


def rank(
    found: Sequence[list[dict[str, Any]]], true: Sequence[list[dict[str, Any]]], label: str, order: Sequence[int]
) -> RankedBoxes:
    """Rank the boxes of a label over all images by score; ties by the images' `order`."""
    images, scores, right, wanted = [], [], [], [0] * len(true)
    for index in order:
        boxes, others = found[index], true[index]
        mine = sorted((box for box in boxes if box["label"] == label), key=lambda box: -box["score"])[:_MOST_BOXES]
        truth = [box["box"] for box in others if box["label"] == label]
        wanted[index] = len(truth)
        images += [index] * len(mine)
        scores += [box["score"] for box in mine]
        right.append(matches([box["box"] for box in mine], truth))
    ranks = np.argsort(-np.array(scores), kind="stable")
    return RankedBoxes(np.array(images, int)[ranks], np.concatenate(right, axis=1)[:, ranks], np.array(wanted, float))


def matches(found: Sequence[Sequence[float]], true: Sequence[Sequence[float]]) -> np.ndarray:
    """bool[T, D]: whether each of D boxes, by falling score, matches one of G true boxes at each IoU threshold.

    A box matches the free ground-truth box with the highest IoU, of equal ones the last, as in COCO's code.
    """
    right = np.zeros((len(THRESHOLDS), len(found)), bool)
    overlaps = box_ious(found, true)
    for level, threshold in enumerate(THRESHOLDS):
        free = np.ones(len(true), bool)
        for index, row in enumerate(overlaps):
            usable = free & (row >= min(threshold, 1 - 1e-10))
            if usable.any():
                values = np.where(usable, row, -1.0)
                free[len(values) - 1 - np.argmax(values[::-1])] = False
                right[level, index] = True
    return right
