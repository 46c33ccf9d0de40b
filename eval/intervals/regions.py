"""Metrics of boxes and masks as weighted sums over images, for the bootstrap."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from openpali.eval.intervals.average_precision import map_statistics
from openpali.eval.intervals.bootstrap import Defined, Statistic, ratio
from openpali.eval.metrics.detection import detection
from openpali.eval.metrics.segmentation import segmentation


def box_statistics(name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Statistic]:
    """Statistics of the metric detection: F1, precision, recall and mAP."""
    found = [[detection.clean(box, row["id"]) for box in row["prediction"]] for row in rows]
    true = [[detection.clean(box, row["id"]) for box in row["reference"]] for row in rows]
    hits = [detection.count_matches(*pair, 0.5) for pair in zip(found, true, strict=True)]
    written, wanted = [len(boxes) for boxes in found], [len(boxes) for boxes in true]
    both = [a + b for a, b in zip(written, wanted, strict=True)]
    made: dict[str, Statistic] = {
        "f1": ratio([2 * hit for hit in hits], both),
        "precision": ratio(hits, written, 0.0),
        "recall": ratio(hits, wanted),
    }
    return where_defined(made | map_statistics(found, true), wanted)


def where_defined(made: Mapping[str, Statistic], wanted: Sequence[int]) -> dict[str, Statistic]:
    """The statistics, nan in resamples without any image that has a reference."""
    return {key: Defined(one, np.array(wanted, np.float64)) for key, one in made.items()}


def mask_statistics(name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Statistic]:
    """Statistics of the metric segmentation: IoU, box accuracy and share of invalid answers."""
    matched = [match_masks(row) for row in rows]
    images = [pairs for pairs, _ in matched]
    has_reference = [bool(row["reference"]) for row in rows]
    missing = [there and not found for there, (_, found) in zip(has_reference, matched, strict=True)]
    count = [len(pairs) for pairs in images]
    made: dict[str, Statistic] = {"mean_iou": ratio([sum(pair.iou for pair in pairs) for pairs in images], count)}
    shared = [sum(pair.intersection for pair in pairs) for pairs in images]
    made["cumulative_iou"] = ratio(shared, [sum(pair.union for pair in pairs) for pairs in images], 0.0)
    for percent in (50, 75):
        hits = [sum(pair.box_iou >= percent / 100 for pair in pairs) for pairs in images]
        made[f"box_accuracy_{percent}"] = ratio(hits, count)
    return where_defined(made, has_reference) | {"invalid": ratio(missing, has_reference, 0.0)}


def match_masks(row: Mapping[str, Any]) -> tuple[list[segmentation.Pair], int]:
    """Pairs of masks of an image, and the number of predictions with a mask, by the metric's defaults."""
    found = [segmentation.clean(one, "prediction") for one in row["prediction"]]
    true = [segmentation.clean(one, "reference") for one in row["reference"]]
    if len(true) == 1 and not true[0]["label"]:
        found, true = ([one | {"label": ""} for one in masks[:1]] for masks in (found, true))
    found = [one for one in found if segmentation.has_mask(one)]
    return list(segmentation.pairs(found, true)), len(found)
