"""Object detection: mAP by COCO's protocol, and precision, recall and F1 at IoU 0.5."""

import math

import datasets
from faster_coco_eval import COCO, COCOeval_faster

from openpali.eval.scoring import documented_metric
from openpali.eval.scoring.boxes import box_ious, check_box, fold_label
from openpali.eval.scoring.documented_metric import NUMBER, TEXT
from openpali.eval.scoring.image_order import image_order

_DESCRIPTION = "COCO mAP of labelled boxes by faster-coco-eval, and their precision, recall and F1 at IoU 0.5."
_CITATION = """
@inproceedings{lin2014microsoft,
    title={Microsoft COCO: Common objects in context},
    author={Lin, Tsung-Yi and Maire, Michael and Belongie, Serge and others},
    booktitle={ECCV}, year={2014}}
"""
_KWARGS = """
Args:
    predictions: per image a list of {"box": [x0, y0, x1, y1], "label": str, "score": float, optional}.
        A box without a score has 1.0. Boxes written as text have none, so they all tie, and their mAP is not that of a
        detector, unless they have confidences from the probabilities of their tokens
        (`evaluate_task(..., box_scores=True)`). Ties are broken by a fixed rule: boxes of one image in the order of
        the answer, those of several images by a hash of the images' boxes, so that no score depends on the order of
        the images.
    references: per image a list of {"box": [x0, y0, x1, y1], "label": str}, in the same units as the
        predictions; any unit will do. Labels match without case and surrounding space.
    iou: threshold of precision, recall and F1 (default 0.5).
    return_scores: also return `scores`, the F1 of each image (default False).
Returns:
    precision, recall, f1: over all boxes of the set. The F1 of an image without boxes and predictions is 1.0.
    map, map50: COCO's AP at IoU 0.50:0.95 and at 0.50, averaged over the labels of the references, so boxes of other
        labels lower the precision, but not the mAP.
    All are nan (undefined) where the whole set has no reference box: an empty answer would be perfect there.
"""

Boxes = list[dict]
BOXES = [{"box": datasets.Sequence(NUMBER), "label": TEXT, "score": NUMBER}]
KEYS = ("f1", "precision", "recall", "map", "map50")


class Detection(documented_metric.DocumentedMetric):
    """mAP and F1 of labelled boxes."""

    documentation = _DESCRIPTION, _CITATION, _KWARGS
    columns = {"predictions": BOXES, "references": BOXES}

    def add_batch(self, *, predictions: list[Boxes], references: list[Boxes], **kwargs: object) -> None:
        """Add images; fills in missing scores, since a column of records has no optional fields."""
        found = [[clean(box, f"prediction {i}") for box in boxes] for i, boxes in enumerate(predictions)]
        true = [[clean(box, f"reference {i}") for box in boxes] for i, boxes in enumerate(references)]
        super().add_batch(predictions=found, references=true, **kwargs)

    def _compute(
        self, predictions: list[Boxes], references: list[Boxes], iou: float = 0.5, return_scores: bool = False
    ) -> dict[str, float | list[float]]:
        pairs = list(zip(predictions, references, strict=True))
        hits = [count_matches(found, true, iou) for found, true in pairs]
        hit, written, wanted = sum(hits), sum(map(len, predictions)), sum(map(len, references))
        result: dict[str, float | list[float]] = dict.fromkeys(KEYS, math.nan)
        if wanted:
            result |= {"f1": f1(hit, written, wanted), "precision": hit / written if written else 0.0}
            result |= {"recall": hit / wanted, **coco_map(predictions, references)}
        scores = [f1(hit, len(found), len(true)) for hit, (found, true) in zip(hits, pairs, strict=True)]
        return result | {"scores": scores} if return_scores else result


def clean(box: dict, where: str) -> dict:
    """A box with a score and a folded label. Raises ValueError for a malformed one."""
    score = box.get("score")
    score = 1.0 if score is None else score
    return {"box": check_box(box["box"], where), "label": fold_label(box["label"]), "score": score}


def f1(hits: int, found: int, true: int) -> float:
    """Harmonic mean of hits / found and hits / true; 1.0 without any boxes."""
    return 2 * hits / (found + true) if found + true else 1.0


def count_matches(found: Boxes, true: Boxes, threshold: float) -> int:
    """Number of one-to-one matches of boxes with the same label; the highest score matches first."""
    free = list(range(len(true)))
    ranked = sorted(found, key=lambda box: -box["score"])
    overlaps = box_ious([box["box"] for box in ranked], [box["box"] for box in true])
    for box, row in zip(ranked, overlaps):
        candidates = [i for i in free if true[i]["label"] == box["label"]]
        best = max(candidates, key=lambda i: row[i], default=None)
        if best is not None and row[best] >= threshold:
            free.remove(best)
    return len(true) - len(free)


def area(box: list[float]) -> float:
    """Area of a box; 0 for an inverted one."""
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def coco_map(found: list[Boxes], true: list[Boxes]) -> dict[str, float]:
    """AP at IoU 0.50:0.95 and at 0.50 by the COCO protocol (at most 100 boxes an image and label).

    Boxes of equal score are ranked by `image_order`.
    """
    order = image_order(found, true)
    found, true = [found[i] for i in order], [true[i] for i in order]
    labels = sorted({box["label"] for boxes in true for box in boxes})
    detections = annotations(found, labels)
    if not detections:
        return {"map": 0.0, "map50": 0.0}
    categories = [{"id": index + 1, "name": label} for index, label in enumerate(labels)]
    images = [{"id": index + 1} for index in range(len(true))]
    truth = COCO({"images": images, "categories": categories, "annotations": annotations(true, labels)})
    evaluator = COCOeval_faster(truth, truth.loadRes(detections), "bbox", print_function=lambda *_: None)
    # areas depend on the unit of the boxes, so there is one range of sizes, without COCO's upper limit
    evaluator.params.areaRng = [[0, float("inf")]] * 4
    evaluator.run()
    return {"map": max(evaluator.stats_as_dict["AP_all"], 0.0), "map50": max(evaluator.stats_as_dict["AP_50"], 0.0)}


def annotations(images: list[Boxes], labels: list[str]) -> list[dict]:
    """COCO annotations (x, y, width, height) of the boxes with one of these labels."""
    rows = []
    for index, boxes in enumerate(images):
        for box in boxes:
            if box["label"] not in labels:
                continue
            x0, y0, x1, y1 = box["box"]
            rows.append(
                {
                    "id": len(rows) + 1,
                    "image_id": index + 1,
                    "category_id": labels.index(box["label"]) + 1,
                    "bbox": [x0, y0, max(x1 - x0, 0.0), max(y1 - y0, 0.0)],
                    "area": area(box["box"]),
                    "iscrowd": 0,
                    "score": box["score"],
                }
            )
    return rows
