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
        which the model wrote them. A mask is COCO's run-length encoding at the size of the image:
        {"size": [height, width], "counts": str, or a list where it is not compressed}. None is no mask: such a
        prediction is dropped, whatever its box is.
    references: per image a list of the same, every one with a mask. Boxes are in the units of the predictions'.
    referring: one prediction against one reference, whatever their labels are: the first prediction counts, others
        are passed over. False matches several things by label. None (default) takes images with a single
        reference that has no label as referring, and matches labels in the others.
    return_scores: also return `scores`, the mean IoU of each image (default False).
Returns:
    mean_iou: over pairs. Of the masks of one label the two with the highest IoU make a pair, then the next two, and
        so on; IoU 0 makes pairs too. A mask that is left over, a reference or a prediction, is a pair of IoU 0: of
        each label as many pairs count as there are references or predictions, whichever is more. Labels match
        without regard to case and surrounding space.
    cumulative_iou: all intersections by all unions (cIoU), so large things weigh more. Masks that are left over add
        to the union.
    box_accuracy_50, box_accuracy_75: share of these pairs whose boxes have an IoU of at least 0.5 and 0.75.
    invalid: share of the images with references for which there is no prediction with a mask, in referring for
        which the first has none. They are in the scores above as 0.
    All are in [0, 1]. An image without references and predictions scores 1.0 and has no pairs. Where the whole set
    has no reference, all but `invalid` are nan, undefined: silence would be perfect there.
"""

Masks = list[dict]
RLE = {"size": datasets.Sequence(datasets.Value("int64")), "counts": TEXT}
MASKS = [{"box": datasets.Sequence(NUMBER), "label": TEXT, "mask": RLE}]
NO_MASK = {"size": [0, 0], "counts": ""}


class Pair(NamedTuple):
    """A predicted and a true mask, areas in pixels; one of the two may be missing."""

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
        """Add images, checked; what has no mask gets an empty one, since a column has no optional fields."""
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
        images, invalid, asked = [], 0, 0
        for found, true in zip(predictions, references, strict=True):
            if referring or (referring is None and len(true) == 1 and not true[0]["label"]):
                found, true = ([{**one, "label": ""} for one in masks[:1]] for masks in (found, true))
            found = [one for one in found if has_mask(one)]
            images.append(list(pairs(found, true)))
            asked += bool(true)
            invalid += bool(true) and not found
        every = [pair for image in images for pair in image]
        union = sum(pair.union for pair in every)
        result: dict[str, float | list[float]] = {
            "mean_iou": mean([pair.iou for pair in every]),
            "cumulative_iou": sum(pair.intersection for pair in every) / union if union else 0.0,
            "box_accuracy_50": mean([pair.box_iou >= 0.5 for pair in every]),
            "box_accuracy_75": mean([pair.box_iou >= 0.75 for pair in every]),
            "invalid": invalid / asked if asked else 0.0,
        }
        if not asked:
            result |= dict.fromkeys([key for key in result if key != "invalid"], math.nan)
        scores = [mean([pair.iou for pair in image]) for image in images]
        return result | {"scores": scores} if return_scores else result


def clean(one: dict, where: str) -> dict:
    """A prediction or reference with its label folded and its mask as a compressed RLE; complain about others."""
    box = check_box(one["box"], where)
    rle = one.get("mask")
    if rle is None and where.startswith("reference"):
        raise ValueError(f"{where}: a reference needs a mask")
    mask = NO_MASK if rle is None else clean_rle(rle, where)
    return {"box": box, "label": fold_label(one["label"]), "mask": mask}


def clean_rle(rle: dict, where: str) -> dict:
    """A mask with its counts as str; complain about one that is none."""
    try:
        height, width = (int(side) for side in rle["size"])
        counts = rle["counts"]
        if isinstance(counts, list):
            counts = coco_masks.frPyObjects([rle], height, width)[0]["counts"]
        mask = {"size": [height, width], "counts": counts.decode() if isinstance(counts, bytes) else counts}
        coco_masks.area(mask)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        shape = '{"size": [height, width], "counts": str}'
        raise ValueError(f"{where}: a mask is {shape}, COCO's run-length encoding, not {rle} ({error})") from error
    return mask


def has_mask(one: dict) -> bool:
    """Whether there was a mask."""
    return 0 not in one["mask"]["size"]


def check_sizes(found: Masks, true: Masks, image: int) -> None:
    """Complain about masks of one image that differ in size."""
    sizes = {tuple(one["mask"]["size"]) for one in (*found, *true) if has_mask(one)}
    if len(sizes) > 1:
        shown = " and ".join(f"{height} x {width}" for height, width in sorted(sizes))
        raise ValueError(f"image {image} has masks of {shown}: all must have the size of the image")


def pairs(found: Masks, true: Masks) -> Iterator[Pair]:
    """Pairs of the masks of an image, of each label the highest IoU first, and those that are left over."""
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
    """A predicted and a true mask."""
    both = [found["mask"], true["mask"]]
    intersection = float(coco_masks.area(coco_masks.merge(both, True)))
    union = area(found) + area(true) - intersection
    return Pair(intersection, union, float(box_ious([found["box"]], [true["box"]])[0, 0]))


def area(one: dict) -> float:
    """Pixels of a mask."""
    return float(coco_masks.area(one["mask"]))


def mean(values: list[float]) -> float:
    """The mean; 1.0 of nothing, since then there was nothing to find and nothing was found."""
    return sum(values) / len(values) if values else 1.0
