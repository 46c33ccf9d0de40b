"""One training or evaluation example: what a task makes of a source's record, and what the collator batches.

file -> source: record (dict) -> task: Example -> mixture: which example comes next -> collator: batch of tensors
"""

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
    """Images, the prompt, the target, and the ground truth for the metric.

    Attributes:
        id: unique within the source; names the record in predictions and error messages.
        task: name of the task that made it.
        images: RGB images in the order in which the model reads them (video frames are images).
        prefix: the prompt.
        suffix: the target text; empty when unknown.
        references: all correct answers, `(suffix,)` for most tasks.
        boxes: ground-truth boxes on the first image, for metrics and drawings.
        masks: COCO RLE (`openpali.data.masks.rle`) of each box's mask, in the order of `boxes`; empty for tasks
            without masks.
        controls: control tokens that prefix and suffix may hold: `places` (location and segmentation tokens), `none`
            for free text, or `all` where `<image>` in the prefix marks the place of each image. Any other text that
            looks like a control token is read as letters.
        meta: further JSON values for the task's metric or the report.
        supervised_places: number of location tokens of the suffix that have a loss, from its start; None for all.
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
    supervised_places: int | None = None
