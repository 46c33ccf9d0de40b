"""One training or evaluation example, and the boxes on its image."""

from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from openpali.modeling.control_tokens import Controls


@dataclass(frozen=True)
class Box:
    """A labelled box in coordinates normalised to [0, 1], origin at the top left."""

    x0: float
    y0: float
    x1: float
    y1: float
    label: str = ""


@dataclass(frozen=True)
class Example:
    """What every source and task ends in: images and a prompt, the target, and what the metric needs.

    Attributes:
        id: unique within the source; names the record in predictions and error messages.
        task: name of the task that made it.
        images: RGB images in the order in which the model reads them (video frames are images).
        prefix: the prompt.
        suffix: the target text; empty when unknown.
        references: every answer that counts as right, `(suffix,)` for most tasks.
        boxes: true boxes on the first image, for metrics and for drawing.
        masks: COCO run lengths (`openpali.data.masks.rle`) of each box's mask, in the order of `boxes`; empty when the
            task is not about masks.
        controls: which control tokens prefix and suffix may hold: `places` (locations and segments), `none` where the
            texts are people's own words, or `all` where `<image>` in the prefix says where each image is. What else
            looks like a control token is letters.
        meta: anything else that the task's metric or the report wants (JSON values only).
    """

    id: str
    task: str
    images: tuple[Image.Image, ...]
    prefix: str
    suffix: str = ""
    references: tuple[str, ...] = ()
    boxes: tuple[Box, ...] = ()
    masks: tuple[dict[str, Any], ...] = ()
    controls: Controls = "places"
    meta: dict[str, Any] = field(default_factory=dict)
