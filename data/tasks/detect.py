"""`detect {thing}`, or `detect {thing} ; {thing}`: a box for every such thing, as location tokens and its label."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from openpali.data.example import Box, Example
from openpali.data.masks.objects import box_dict, labelled, located
from openpali.data.tasks.parts.noise_boxes import noise_boxes
from openpali.data.tasks.parts.things import ThingTask
from openpali.modeling.location_tokens import (
    NOISE,
    SURE,
    UNSURE,
    format_detections,
    parse_detections,
    with_confidences,
    without_confidences,
)

# of the confidences in targets, so that a model knows how to go on behind either
UNSURE_SHARE = 0.2


@dataclass(frozen=True)
class Detect(ThingTask):
    """Boxes of the `objects` of a record, by the options of `ThingTask`.

    Attributes:
        confidence: whether a confidence stands behind each label, `<loc1023>` or `<loc0000>`; `openpali reward` trains
            it towards the overlap that sampled boxes reach, so that mAP ranks boxes by something learned.
        noise_boxes: boxes of every target, filled up behind the true ones with boxes of the label `noise`, whose
            location tokens have no loss; 0 for true ones alone.
    """

    confidence: bool = False
    noise_boxes: int = 0
    metric: str = "detection"
    metric_key: str = "f1"
    max_new_tokens: int = 64
    name: str = "detect"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.noise_boxes < 0:
            raise ValueError(f"noise_boxes is 0 or a number of boxes, not {self.noise_boxes}")
        if self.noise_boxes and self.confidence:
            raise ValueError("noise_boxes and confidence both say which boxes are right: give one of them")
        if self.noise_boxes and NOISE in (*self.classes, *self.things):
            raise ValueError(f"noise_boxes: a class is called {NOISE!r} as the label of noise boxes: rename it")

    def example(self, record: dict[str, Any], rng: random.Random) -> Example | None:
        """Some of the things on the image; None when there is nothing to ask for."""
        names, chosen = self.choose(record["objects"], record.get("crowds", ()), rng)
        if not names:
            return None
        boxes = tuple(labelled(item["box"], item["names"][self.language]) for item in chosen)
        places, target = self.target(boxes, rng)
        return Example(
            id=record["id"],
            task=self.name,
            images=(record["image"],),
            prefix=self.prompt or "detect " + " ; ".join(names),
            suffix=target,
            references=(target,),
            boxes=boxes,
            supervised_places=places,
        )

    def target(self, boxes: Sequence[Box], rng: random.Random) -> tuple[int | None, str]:
        """The number of location tokens that have a loss, None for all; and the target."""
        noise = noise_boxes(boxes, self.noise_boxes - len(boxes), rng)
        target = format_detections(located(box) for box in (*boxes, *noise))
        if self.confidence:
            target = with_confidences(target, lambda: UNSURE if rng.random() < UNSURE_SHARE else SURE)
        return 4 * len(boxes) if noise else None, target

    def prediction(self, text: str, example: Example) -> list[dict[str, Any]]:
        """The boxes parsed from the text, without noise boxes; any other text is ignored."""
        found = parse_detections(without_confidences(text) if self.confidence else text).boxes
        kept = [box for box in found if not (self.noise_boxes and box.label == NOISE)]
        return [{"box": [box.x1, box.y1, box.x2, box.y2], "label": box.label} for box in kept]

    def reference(self, example: Example) -> list[dict[str, Any]]:
        """The ground-truth boxes."""
        return [box_dict(box) for box in example.boxes]
