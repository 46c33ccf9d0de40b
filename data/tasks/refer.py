"""Referring segmentation: from a sentence to the box and mask of the object that it means."""

import random
import re
from dataclasses import dataclass
from typing import Any

from openpali.data.example import Example
from openpali.data.masks.mask_tokenizer import DEFAULT_CODEC, read_masks, true_masks, write_masks
from openpali.data.masks.objects import Objects, box_dict, labelled, located, visible, with_masks
from openpali.data.tasks.parts.expressions import expressions
from openpali.modeling.location_tokens import format_box, read_box

_BOX = re.compile(r"\s*((?:<loc[0-9]{4}>\s*){4})")
_MASK = re.compile(_BOX.pattern + r"(?:<seg[0-9]{3}>\s*){16}")


@dataclass(frozen=True)
class Refer:
    """One object of a record, by one of its `sentences` or by a generated expression that fits no other object.

    As in big_vision, the prompt is the sentence alone, the target has no label, and only the first box and mask of an
    answer count.

    Attributes:
        codec: folder or Hub name of the mask tokenizer; unused with `boxes_only`.
        boxes_only: write the box without the mask.
        language: of the sentence. Generated expressions are English.
        prompt: template around {sentence}, for a model that learns several tasks.
    """

    codec: str = DEFAULT_CODEC
    boxes_only: bool = False
    language: str = "en"
    prompt: str = "{sentence}"
    max_new_tokens: int = 24
    name: str = "refer"

    def __post_init__(self) -> None:
        if "{sentence}" not in self.prompt:
            raise ValueError(f"prompt={self.prompt!r}: it must hold {{sentence}}")

    @property
    def metric(self) -> str:
        """That of masks or of boxes."""
        return "detection" if self.boxes_only else "segmentation"

    @property
    def metric_key(self) -> str:
        """Mean IoU of masks, or the share of boxes with an IoU of 0.5."""
        return "f1" if self.boxes_only else "mean_iou"

    def example(self, record: dict[str, Any], rng: random.Random) -> Example | None:
        """A random sentence of a random object that has some; None without any."""
        found = self._referable(record)
        rng.shuffle(found)
        for item, sentences in found:
            if not self.boxes_only and not visible([item]):
                continue
            sentence = rng.choice(sentences)
            box = labelled(item["box"], "")
            target, masks = format_box(located(box)), ()
            if not self.boxes_only:
                target, masks = write_masks(self.codec, [item], [box])
            return Example(
                id=record["id"],
                task=self.name,
                images=(record["image"],),
                prefix=self.prompt.replace("{sentence}", sentence),
                suffix=target,
                references=(target,),
                boxes=(box,),
                masks=masks,
                meta={"sentence": sentence},
            )
        return None

    def prediction(self, text: str, example: Example) -> list[dict[str, Any]]:
        """The box and mask at the start of the text; empty without them."""
        if not self.boxes_only:
            match = _MASK.match(text)
            return read_masks(self.codec, match[0], example) if match else []
        match = _BOX.match(text)
        box = read_box(match[1], "") if match else ""
        return [] if isinstance(box, str) else [{"box": list(box.normalised_xyxy()), "label": "", "mask": None}]

    def reference(self, example: Example) -> list[dict[str, Any]]:
        """The ground truth."""
        if self.boxes_only:
            return [box_dict(box) | {"mask": None} for box in example.boxes]
        return true_masks(example)

    def _referable(self, record: dict[str, Any]) -> list[tuple[dict[str, Any], list[str]]]:
        """Objects with sentences or generated expressions."""
        found = []
        objects: Objects = record["objects"]
        for item in objects if self.boxes_only else with_masks(objects):
            if item.get("sentences"):
                sentences = item["sentences"].get(self.language, [])
            else:
                sentences = expressions(item, objects, record.get("crowds", ())) if self.language == "en" else []
            if sentences:
                found.append((item, list(sentences)))
        return found
