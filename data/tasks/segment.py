"""`segment {thing}`, or `segment {thing} ; {thing}`: box, mask and label of every such thing, as tokens."""

import random
from dataclasses import dataclass
from typing import Any

from openpali.data.example import Example
from openpali.data.masks.mask_tokenizer import DEFAULT_CODEC, read_masks, true_masks, write_masks
from openpali.data.masks.objects import all_things, check_order, choose_things, labelled, visible, with_masks
from openpali.data.sources import several


@dataclass(frozen=True)
class Segment:
    """Masks from records whose `objects` have some. A thing is asked for when every one of it has a mask.

    Attributes:
        codec: folder or Hub name of the mask VQ-VAE.
        most_things: how many different things one prompt may name.
        language: language of the things' names.
        things: names that may be asked for; every name when empty.
        most_boxes: things of which an image has more than this are not asked for on it.
        order: of the masks: `reading`, or `shuffled` anew for each example.
        classes: every prompt asks for all of these, also on images without any, whose answer is empty.
        prompt: of every example, in place of `segment {thing} ; {thing}`; it goes with `classes`.
    """

    codec: str = DEFAULT_CODEC
    most_things: int = 1
    language: str = "en"
    things: tuple[str, ...] = ()
    most_boxes: int | None = None
    order: str = "reading"
    classes: tuple[str, ...] = ()
    prompt: str = ""
    metric: str = "segmentation"
    metric_key: str = "mean_iou"
    max_new_tokens: int = 128
    name: str = "segment"

    def __post_init__(self) -> None:
        check_order(self.order)
        for field in ("things", "classes"):
            object.__setattr__(self, field, several(getattr(self, field)))
        if self.prompt and not self.classes:
            raise ValueError("prompt: name the classes that it asks for in classes")

    def example(self, record: dict[str, Any], rng: random.Random) -> Example | None:
        """Some of the things on the image; None when there are none to ask for."""
        objects = with_masks(record["objects"])
        bare = [item["names"][self.language] for item in record["objects"] if item.get("mask") is None]
        options = (self.language, self.most_things, self.things, self.most_boxes, self.order)
        left_out = [*record.get("crowds", ()), *bare]
        if self.classes:
            names, chosen = all_things(objects, left_out, self.language, self.classes)
        else:
            names, chosen = choose_things(objects, left_out, rng, *options)
        chosen = visible(chosen)
        if not names or not (chosen or self.classes):
            return None
        boxes = [labelled(item["box"], item["names"][self.language]) for item in chosen]
        target, masks = write_masks(self.codec, chosen, boxes)
        return Example(
            id=record["id"],
            task=self.name,
            images=(record["image"],),
            prefix=self.prompt or "segment " + " ; ".join(names),
            suffix=target,
            references=(target,),
            boxes=tuple(boxes),
            masks=masks,
        )

    def prediction(self, text: str, example: Example) -> list[dict[str, Any]]:
        """The masks that can be read from the text, at the size of the image; the rest counts for nothing."""
        return read_masks(self.codec, text, example)

    def reference(self, example: Example) -> list[dict[str, Any]]:
        """The true masks, as they were before they became tokens."""
        return true_masks(example)
