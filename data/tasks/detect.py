"""`detect {thing}`, or `detect {thing} ; {thing}`: a box for every such thing, as location tokens and its label."""

import random
from dataclasses import dataclass
from typing import Any

from openpali.data.example import Example
from openpali.data.masks.objects import all_things, box_dict, check_order, choose_things, labelled, located
from openpali.data.sources import several
from openpali.modeling.location_tokens import format_detections, parse_detections


@dataclass(frozen=True)
class Detect:
    """Boxes from records that carry `objects`.

    Attributes:
        most_things: how many different things one prompt may name.
        language: language of the things' names.
        things: names that may be asked for; every name when empty.
        most_boxes: things of which an image has more than this are not asked for on it.
        order: of the boxes: `reading`, or `shuffled` anew for each example.
        classes: every prompt asks for all of these, also on images without any, whose answer is empty.
        prompt: of every example, in place of `detect {thing} ; {thing}`; it goes with `classes`.
    """

    most_things: int = 1
    language: str = "en"
    things: tuple[str, ...] = ()
    most_boxes: int | None = None
    order: str = "reading"
    classes: tuple[str, ...] = ()
    prompt: str = ""
    metric: str = "detection"
    metric_key: str = "f1"
    max_new_tokens: int = 64
    name: str = "detect"

    def __post_init__(self) -> None:
        check_order(self.order)
        for field in ("things", "classes"):
            object.__setattr__(self, field, several(getattr(self, field)))
        if self.prompt and not self.classes:
            raise ValueError("prompt: name the classes that it asks for in classes")

    def example(self, record: dict[str, Any], rng: random.Random) -> Example | None:
        """Some of the things on the image; None when there are none to ask for."""
        options = (self.language, self.most_things, self.things, self.most_boxes, self.order)
        if self.classes:
            names, chosen = all_things(record["objects"], record.get("crowds", ()), self.language, self.classes)
        else:
            names, chosen = choose_things(record["objects"], record.get("crowds", ()), rng, *options)
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
        """The boxes that can be read from the text; the rest of it counts for nothing."""
        return [{"box": [box.x1, box.y1, box.x2, box.y2], "label": box.label} for box in parse_detections(text).boxes]

    def reference(self, example: Example) -> list[dict[str, Any]]:
        """The true boxes."""
        return [box_dict(box) for box in example.boxes]
