"""`detect {thing}`, or `detect {thing} ; {thing}`: a box for every such thing, as location tokens and its label."""

import random
from dataclasses import dataclass
from typing import Any

from openpali.data.example import Box, Example
from openpali.modeling.location_tokens import LocatedBox, format_detections, parse_detections


@dataclass(frozen=True)
class Detect:
    """Boxes from records that carry `objects`.

    Attributes:
        most_things: how many different things one prompt may name.
        language: language of the things' names.
    """

    most_things: int = 1
    language: str = "en"
    metric: str = "box_f1"
    metric_key: str = "f1"
    max_new_tokens: int = 64
    name: str = "detect"

    def example(self, record: dict[str, Any], rng: random.Random) -> Example | None:
        """Some of the things on the picture, in reading order; None when there are none."""
        things = list(dict.fromkeys(item["names"][self.language] for item in record["objects"]))
        if not things:
            return None
        wanted = set(rng.sample(things, rng.randint(1, min(self.most_things, len(things)))))
        boxes = tuple(
            Box(box.x0, box.y0, box.x1, box.y1, item["names"][self.language])
            for item in record["objects"]
            if item["names"][self.language] in wanted and (box := item["box"])
        )
        target = format_detections(LocatedBox(box.y0, box.x0, box.y1, box.x1, box.label) for box in boxes)
        return Example(
            id=record["id"],
            task=self.name,
            images=(record["image"],),
            prefix="detect " + " ; ".join(thing for thing in things if thing in wanted),
            suffix=target,
            references=(target,),
            boxes=boxes,
        )

    def prediction(self, text: str, example: Example) -> list[dict[str, Any]]:
        """The boxes that can be read from the text; the rest of it counts for nothing."""
        return [{"box": [box.x1, box.y1, box.x2, box.y2], "label": box.label} for box in parse_detections(text).boxes]

    def reference(self, example: Example) -> list[dict[str, Any]]:
        """The true boxes."""
        return [{"box": [box.x0, box.y0, box.x1, box.y1], "label": box.label} for box in example.boxes]
