"""`detect {thing}`, or `detect {thing} ; {thing}`: a box for every such thing, as location tokens and its label."""

import random
from dataclasses import dataclass
from typing import Any

from openpali.data.example import Example
from openpali.data.masks.objects import box_dict, labelled, located
from openpali.data.tasks.parts.things import ThingTask
from openpali.modeling.location_tokens import format_detections, parse_detections


@dataclass(frozen=True)
class Detect(ThingTask):
    """Boxes of the `objects` of a record, by the options of `ThingTask`."""

    metric: str = "detection"
    metric_key: str = "f1"
    max_new_tokens: int = 64
    name: str = "detect"

    def example(self, record: dict[str, Any], rng: random.Random) -> Example | None:
        """Some of the things on the image; None when there is nothing to ask for."""
        names, chosen = self.choose(record["objects"], record.get("crowds", ()), rng)
        if not names:
            return None
        boxes = tuple(labelled(item["box"], item["names"][self.language]) for item in chosen)
        target = format_detections(located(box) for box in boxes)
        return Example(
            id=record["id"],
            task=self.name,
            images=(record["image"],),
            prefix=self.prompt or "detect " + " ; ".join(names),
            suffix=target,
            references=(target,),
            boxes=boxes,
        )

    def prediction(self, text: str, example: Example) -> list[dict[str, Any]]:
        """The boxes parsed from the text; any other text is ignored."""
        return [{"box": [box.x1, box.y1, box.x2, box.y2], "label": box.label} for box in parse_detections(text).boxes]

    def reference(self, example: Example) -> list[dict[str, Any]]:
        """The ground-truth boxes."""
        return [box_dict(box) for box in example.boxes]
