"""`segment {thing}`, or `segment {thing} ; {thing}`: box, mask and label of every such thing, as tokens."""

import random
from dataclasses import dataclass
from typing import Any

from openpali.data.example import Example
from openpali.data.masks.mask_tokenizer import DEFAULT_CODEC, read_masks, true_masks, write_masks
from openpali.data.masks.objects import labelled, visible, with_masks
from openpali.data.tasks.parts.things import ThingTask


@dataclass(frozen=True)
class Segment(ThingTask):
    """Masks of the `objects` of a record, by the options of `ThingTask`; a thing needs a mask for each of its objects.

    Attributes:
        codec: folder or Hub name of the mask tokenizer. Objects with `mask_tokens` of it are not encoded again.
    """

    codec: str = DEFAULT_CODEC
    metric: str = "segmentation"
    metric_key: str = "mean_iou"
    max_new_tokens: int = 128
    name: str = "segment"

    def example(self, record: dict[str, Any], rng: random.Random) -> Example | None:
        """Some of the things on the image; None when there is nothing to ask for."""
        bare = [item["names"][self.language] for item in record["objects"] if item.get("mask") is None]
        names, chosen = self.choose(with_masks(record["objects"]), [*record.get("crowds", ()), *bare], rng)
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
        """The masks parsed from the text, at the size of the image; any other text is ignored."""
        return read_masks(self.codec, text, example)

    def reference(self, example: Example) -> list[dict[str, Any]]:
        """The ground-truth masks, not those that their tokens decode to."""
        return true_masks(example)
