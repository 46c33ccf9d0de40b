"""`detect {thing}`, or `detect {thing} ; {thing}`: a box for every such thing, as location tokens and its label."""

import random
from dataclasses import dataclass
from typing import Any

from openpali.data.example import Example
from openpali.data.objects import box_dict, check_order, choose_things, labelled, located
from openpali.modeling.location_tokens import format_detections, parse_detections


@dataclass(frozen=True)
class Detect:
    """Boxes from records that carry `objects`.

    Attributes:
        most_things: how many different things one prompt may name.
        language: language of the things' names.
        things: names that may be asked for; every name when empty.
        most_boxes: things of which a picture has more than this are not asked for on it.
        order: of the boxes: `reading`, or `shuffled` anew for each example.
    """

    most_things: int = 1
    language: str = "en"
    things: tuple[str, ...] = ()
    most_boxes: int | None = None
    order: str = "reading"
    metric: str = "box_f1"
    metric_key: str = "f1"
    max_new_tokens: int = 64
    name: str = "detect"

    def __post_init__(self) -> None:
        check_order(self.order)
        object.__setattr__(self, "things", (self.things,) if isinstance(self.things, str) else tuple(self.things))

    def example(self, record: dict[str, Any], rng: random.Random) -> Example | None:
        """Some of the things on the picture; None when there are none to ask for."""
        options = (self.language, self.most_things, self.things, self.most_boxes, self.order)
        names, chosen = choose_things(record["objects"], record.get("crowds", ()), rng, *options)
        if not chosen:
            return None
        boxes = tuple(labelled(item["box"], item["names"][self.language]) for item in chosen)
        target = format_detections(located(box) for box in boxes)
        return Example(
            id=record["id"],
            task=self.name,
            images=(record["image"],),
            prefix="detect " + " ; ".join(names),
            suffix=target,
            references=(target,),
            boxes=boxes,
        )

    def prediction(self, text: str, example: Example) -> list[dict[str, Any]]:
        """The boxes that can be read from the text; the rest of it counts for nothing."""
        return [{"box": [box.x1, box.y1, box.x2, box.y2], "label": box.label} for box in parse_detections(text).boxes]

    def reference(self, example: Example) -> list[dict[str, Any]]:
        """The true boxes."""
        return [box_dict(box) for box in example.boxes]
