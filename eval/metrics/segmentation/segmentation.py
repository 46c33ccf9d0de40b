"""Masks: mean and cumulative IoU at the size of the image, and the accuracy of their boxes."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import datasets
from faster_coco_eval.core import mask as coco_masks

from openpali.eval.scoring import documented_metric
from openpali.eval.scoring.boxes import box_ious, check_box, fold_label
from openpali.eval.scoring.documented_metric import NUMBER, TEXT

_DESCRIPTION = "IoU of masks at full resolution, cumulative IoU, and box accuracy at IoU 0.5 and 0.75."
_CITATION = """
@inproceedings{yu2016modeling,
    title={Modeling context in referring expressions},
    author={Yu, Licheng and Poirson, Patrick and Yang, Shan and Berg, Alexander C. and Berg, Tamara L.},
    booktitle={ECCV}, year={2016}}
"""
_KWARGS = """
Args:
    predictions: per image a list of {"box": [x0, y0, x1, y1], "label": str, "mask": RLE or None}, in the order in
        which the model wrote them. A mask is COCO's RLE at the size of the image:
        {"size": [height, width], "counts": str, or a list where it is not compressed}. A prediction with the mask None
        is dropped, whatever its box is.
    references: per image a list of the same, every one with a mask. Boxes are in the units of the predictions'.
    referring: True compares the first prediction with the only reference, whatever their labels are; other
        predictions are ignored. False matches several objects by label. None (default) is True for images with a
        single reference without a label, else False.
    return_scores: also return `scores`, the mean IoU of each image (default False).
Returns:
    mean_iou: over pairs. Of the masks of one label the two with the highest IoU are a pair, then the next two, and so
        on, also with IoU 0. A mask without a partner, reference or prediction, is a pair of IoU 0: each label has as
        many pairs as references or predictions, whichever is more. Labels match without case and surrounding space.
    cumulative_iou: sum of intersections divided by sum of unions (cIoU), so large objects weigh more. Masks without a
        partner add to the union.
    box_accuracy_50, box_accuracy_75: share of these pairs whose boxes have an IoU of at least 0.5 and 0.75.
    invalid: share of the images with references that have no prediction with a mask; in referring, whose first
        prediction has none. They count as 0 in the scores above.
    All are in [0, 1]. An image without references and predictions scores 1.0 and has no pairs. Where the whole set
    has no reference, all but `invalid` are nan (undefined): an empty answer would be perfect there.
"""

Masks = list[dict]
RLE = {"size": datasets.Sequence(datasets.Value("int64")), "counts": TEXT}
MASKS = [{"box": datasets.Sequence(NUMBER), "label": TEXT, "mask": RLE}]
NO_MASK = {"size": [0, 0], "counts": ""}


class Pair(NamedTuple):
    """A predicted and a reference mask, areas in pixels; one of the two may be missing."""

    intersection: float = 0.0
    union: float = 0.0
    box_iou: float = 0.0

    @property
    def iou(self) -> float:
        """Intersection over union; 0 when both masks are empty."""
        return self.intersection / self.union if self.union else 0.0


class Segmentation(documented_metric.DocumentedMetric):
    """IoU of masks, and accuracy of their boxes."""

    documentation = _DESCRIPTION, _CITATION, _KWARGS
    columns = {"predictions": MASKS, "references": MASKS}

    def add_batch(self, *, predictions: list[Masks], references: list[Masks], **kwargs: object) -> None:
        """Add images, checked; predictions without a mask get an empty one, since columns have no optional fields."""
        found = [[clean(one, f"prediction {i}") for one in masks] for i, masks in enumerate(predictions)]
        true = [[clean(one, f"reference {i}") for one in masks] for i, masks in enumerate(references)]
        for i, masks in enumerate(true):
            check_sizes(found[i], masks, i)
        super().add_batch(predictions=found, references=true, **kwargs)

    def _compute(
        self,
        predictions: list[Masks],
        references: list[Masks],
        referring: bool | None = None,
        return_scores: bool = False,
    ) -> dict[str, float | list[float]]:
        images, invalid, with_reference = [], 0, 0
        for found, true in zip(predictions, references, strict=True):
            if referring or (referring is None and len(true) == 1 and not true[0]["label"]):
                found, true = ([{**one, "label": ""} for one in masks[:1]] for masks in (found, true))
            found = [one for one in found if has_mask(one)]
            images.append(list(pairs(found, true)))
            with_reference += bool(true)
            invalid += bool(true) and not found
        every = [pair for image in images for pair in image]
        union = sum(pair.union for pair in every)
        result: dict[str, float | list[float]] = {
            "mean_iou": mean([pair.iou for pair in every]),
            "cumulative_iou": sum(pair.intersection for pair in every) / union if union else 0.0,
            "box_accuracy_50": mean([pair.box_iou >= 0.5 for pair in every]),
            "box_accuracy_75": mean([pair.box_iou >= 0.75 for pair in every]),
            "invalid": invalid / with_reference if with_reference else 0.0,
        }
        if not with_reference:
            result |= dict.fromkeys([key for key in result if key != "invalid"], math.nan)
        scores = [mean([pair.iou for pair in image]) for image in images]
        return result | {"scores": scores} if return_scores else result


def clean(one: dict, where: str) -> dict:
    """A prediction or reference with a folded label and a compressed RLE. Raises ValueError for others."""
    box = check_box(one["box"], where)
    rle = one.get("mask")
    if rle is None and where.startswith("reference"):
        raise ValueError(f"{where}: a reference needs a mask")
    mask = NO_MASK if rle is None else clean_rle(rle, where)
    return {"box": box, "label": fold_label(one["label"]), "mask": mask}


def clean_rle(rle: dict, where: str) -> dict:
    """A mask with its counts as str. Raises ValueError for a malformed one."""
    try:
        height, width = (int(side) for side in rle["size"])
        counts = rle["counts"]
        if isinstance(counts, list):
            counts = coco_masks.frPyObjects([rle], height, width)[0]["counts"]
        mask = {"size": [height, width], "counts": counts.decode() if isinstance(counts, bytes) else counts}
        coco_masks.area(mask)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        shape = '{"size": [height, width], "counts": str}'
        raise ValueError(f"{where}: a mask is {shape}, COCO's RLE, not {rle} ({error})") from error
    return mask


def has_mask(one: dict) -> bool:
    """Whether the prediction or reference has a mask."""
    return 0 not in one["mask"]["size"]


def check_sizes(found: Masks, true: Masks, image: int) -> None:
    """Raise ValueError where masks of one image differ in size."""
    sizes = {tuple(one["mask"]["size"]) for one in (*found, *true) if has_mask(one)}
    if len(sizes) > 1:
        listed = " and ".join(f"{height} x {width}" for height, width in sorted(sizes))
        raise ValueError(f"image {image} has masks of {listed}: all must have the size of the image")


def pairs(found: Masks, true: Masks) -> Iterator[Pair]:
    """Pairs of the masks of an image, of each label the highest IoU first, then masks without a partner."""
    table = {
        (i, j): compare(one, other)
        for i, one in enumerate(found)
        for j, other in enumerate(true)
        if one["label"] == other["label"]
    }
    free = set(range(len(found))), set(range(len(true)))
    for i, j in sorted(table, key=lambda key: -table[key].iou):
        if i in free[0] and j in free[1]:
            yield table[i, j]
            free[0].remove(i)
            free[1].remove(j)
    yield from (Pair(union=area(found[i])) for i in free[0])
    yield from (Pair(union=area(true[j])) for j in free[1])


def compare(found: dict, true: dict) -> Pair:
    """The pair of a predicted and a reference mask."""
    both = [found["mask"], true["mask"]]
    intersection = float(coco_masks.area(coco_masks.merge(both, True)))
    union = area(found) + area(true) - intersection
    return Pair(intersection, union, float(box_ious([found["box"]], [true["box"]])[0, 0]))


def area(one: dict) -> float:
    """Pixels of a mask."""
    return float(coco_masks.area(one["mask"]))


def mean(values: list[float]) -> float:
    """The mean; 1.0 without values, since then there are neither references nor predictions."""
    return sum(values) / len(values) if values else 1.0
