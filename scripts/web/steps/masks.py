"""`masks`: the pixels of a record's objects, by a Segment Anything model that is given their boxes."""

from dataclasses import dataclass
from typing import Any

from openpali.data.example import Box
from openpali.data.masks.mask_tokenizer import codec_name, load_codec, mask_tokens, stored_tokens
from openpali.data.masks.rle import encode_rle, mask_array
from openpali.modeling.dtypes import CHOICES
from openpali.scripts.web.labelling.label_models import (
    can_be_labelled,
    check_label_model,
    label_model_name,
)
from openpali.scripts.web.labelling.segmenters import box_masks
from openpali.scripts.web.running.samples import Verdict, WebSample

Object = dict[str, Any]


@dataclass(frozen=True)
class Masks:
    """`mask` of each object that has a box and no mask yet, as COCO's RLE, with the model as `mask_model`.

    Attributes:
        model: folder or Hub name of a SAM, SAM-HQ or SAM 2; the last needs torchvision.
        codec: folder or Hub name of a mask tokenizer of `openpali`; where it is given, each object with a mask also
            gets its sixteen `mask_tokens`, and `mask_codec`, by which `segment` knows that they are of its codec.
        least_iou: masks of a lower IoU, as the model predicts it, are left out.
        most_objects: of an image; further ones stay without a mask.
        dtype: of the weights; auto is the checkpoint's own.
    """

    model: str = ""
    codec: str = ""
    least_iou: float = 0.8
    most_objects: int = 100
    dtype: str = "auto"

    def __post_init__(self) -> None:
        if not 0 <= self.least_iou <= 1 or self.most_objects < 1 or self.dtype not in CHOICES:
            raise ValueError(f"least_iou is 0 to 1, most_objects at least 1, dtype one of {', '.join(CHOICES)}")
        check_label_model("masks", self.model)
        if self.codec:
            load_codec(self.codec)

    def __call__(self, batch: list[WebSample]) -> list[Verdict]:
        """Masks of the objects of each image."""
        return [self.verdict(sample) for sample in batch]

    def verdict(self, sample: WebSample) -> Verdict:
        """Masks of the objects of an image."""
        before: list[Object] = sample.record.get("objects", [])
        objects, fits = list(before), can_be_labelled(sample.image)
        bare = [n for n, item in enumerate(before) if fits and _is_bare(item)][: self.most_objects]
        model, count = label_model_name(self.model), 0
        masks = box_masks(self.model, self.dtype, sample.image, [before[n]["box"] for n in bare]) if bare else []
        for place, (mask, iou) in zip(bare, masks):
            if iou >= self.least_iou and mask.any():
                objects[place] = before[place] | {"mask": encode_rle(mask), "mask_model": model}
                count += 1
        objects = self.with_tokens(objects) if self.codec else objects
        labels = {"objects": objects} if objects != before else {}
        return Verdict(labels=labels, models={"masks": model} if count else {}, values={"masks": count})

    def with_tokens(self, objects: list[Object]) -> list[Object]:
        """Objects with the tokens of their masks, those of people too."""
        masks = {n: mask_array(item["mask"]) for n, item in enumerate(objects) if self.lacks_tokens(item)}
        seen = [n for n, mask in masks.items() if mask.any()]
        tokens = mask_tokens(self.codec, [masks[n] for n in seen], [Box(*objects[n]["box"]) for n in seen])
        changed = {n: {"mask_tokens": own, "mask_codec": codec_name(self.codec)} for n, own in zip(seen, tokens)}
        return [item | changed.get(n, {}) for n, item in enumerate(objects)]

    def lacks_tokens(self, item: Object) -> bool:
        """Whether an object has a mask without its tokens of this codec."""
        return item.get("mask") is not None and "box" in item and stored_tokens(self.codec, item) is None


def _is_bare(item: Object) -> bool:
    """Whether an object has a box and no mask."""
    x0, y0, x1, y1 = item.get("box") or (0, 0, 0, 0)
    return item.get("mask") is None and x0 < x1 and y0 < y1
