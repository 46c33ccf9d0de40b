"""Objects in an answer: boxes, masks and confidences, in coordinates of the image."""

import sys
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from openpali.data.masks.mask_tokenizer import codec_of, load_codec
from openpali.data.masks.rle import decode_rle, encode_rle
from openpali.eval.answering.confidence import box_confidences
from openpali.eval.answering.decoding import Answer
from openpali.eval.scoring.detection_reward import drop_duplicates
from openpali.modeling.location_tokens import NOISE, LocatedBox, parse_detections, without_confidences
from openpali.modeling.modeling_mask_vqvae import MaskVQVAE
from openpali.modeling.segmentation_tokens import parse_segmentations

Rejections = list[tuple[str, str]]


class MaskReader:
    """The mask VQ-VAE for answers: the given one, or that of the model when an answer first has masks."""

    def __init__(self, name: str | None, model: str, needed: bool, verb: str = "predict") -> None:
        """Load it at once if it is named or needed. Raises ValueError where there is none; `verb` heads messages."""
        self.name, self.model = name, model
        self.codec: MaskVQVAE | None = self._load() if name or needed else None
        # the reason, once masks were left out
        self.missing, self.verb = "", verb

    def _load(self) -> MaskVQVAE:
        return load_codec(self.name or codec_of(self.model))

    def codec_for(self, answer: str) -> MaskVQVAE | None:
        """The codec; None for an answer without masks, and with a message, once, where there is no codec."""
        if self.codec is None and not self.missing and parse_segmentations(answer).masks:
            try:
                self.codec = self._load()
            except ValueError as error:
                self.missing = str(error)
                tqdm.write(f"openpali {self.verb}: masks are left out, since {error}", file=sys.stderr)
        return self.codec


def find_objects(
    answer: Answer, image: Image.Image, masks: MaskReader, overlap: float | None = None
) -> tuple[list[dict[str, Any]], Rejections]:
    """Objects of an answer with their confidences; see `parse_answer`.

    Args:
        answer: of a model.
        image: that it is about.
        masks: reads masks.
        overlap: above which a box that repeats a more confident one of its label is left out.

    Returns:
        Objects as of `parse_answer`, with `confidence` in [0, 1] where the answer has its tokens, else None; and
        malformed parts with the reason.
    """
    if answer.found is not None:
        found, rejected = [dict(one) for one in answer.found], []
    else:
        found, rejected = parse_answer(answer.text, image, masks.codec_for(answer.text))
    known = [None] * len(found) if answer.tokens is None else box_confidences(answer.tokens, found)
    found = [one | {"confidence": confidence} for one, confidence in zip(found, known, strict=True)]
    if noise := sum(one["label"] == NOISE for one in found):
        found = [one for one in found if one["label"] != NOISE]
        rejected = [*rejected, (NOISE, f"boxes with the label of boxes on nothing: {noise}")]
    return found if overlap is None else without_duplicates(found, overlap), rejected


def without_duplicates(found: list[dict[str, Any]], iou: float) -> list[dict[str, Any]]:
    """Objects whose boxes repeat no more confident one of the same label."""
    ranked = [{"box": one["box"], "label": one["label"], "score": one["confidence"], "of": one} for one in found]
    return [one["of"] for one in drop_duplicates(ranked, iou)]


def parse_answer(
    answer: str, image: Image.Image, codec: MaskVQVAE | None
) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """Parse the boxes and masks of an answer, in its order.

    Returns:
        Objects `{"box": [x0, y0, x1, y1] in [0, 1], "label", "mask": RLE or None}`, without masks where there is no
        codec; and malformed parts with the reason.
    """
    found, rejected = [], []
    for part in without_confidences(answer).split(";") if "<loc" in answer else ():
        # a referring answer has a box without a label
        boxes, masks = parse_detections(part, labelled=False), parse_segmentations(part)
        if masks.masks and codec is not None:
            read = codec.read(part, image.height, image.width)
            found += [object_dict(box, mask.cpu().numpy()) for box, mask in zip(read.boxes, read.masks)]
            rejected += read.rejected
        else:
            found += [object_dict(box) for box in [mask.box for mask in masks.masks] + boxes.boxes]
        if not masks.masks and not boxes.boxes:
            rejected += masks.rejected if "<seg" in part else boxes.rejected
    return found, [(part, reason) for part, reason in rejected]


def object_dict(box: LocatedBox, mask: np.ndarray | None = None) -> dict[str, Any]:
    """A box and its mask, bool[H, W], in the format of metrics and drawings."""
    rle = None if mask is None else encode_rle(mask)
    return {"box": list(box.normalised_xyxy()), "label": box.label, "mask": rle}


def format_object(one: dict[str, Any], image: Image.Image) -> str:
    """An object on one line, in pixels of the image."""
    x0, y0, x1, y1 = (round(x * side) for x, side in zip(one["box"], (*image.size, *image.size)))
    line = f"{one['label'] or 'no label'}: x {x0} to {x1}, y {y0} to {y1}"
    line += "" if one["confidence"] is None else f", confidence {one['confidence']:.2f}"
    return line if one["mask"] is None else f"{line}, mask of {decode_rle(one['mask']).sum()} pixels"


def json_object(one: dict[str, Any], image: Image.Image) -> dict[str, Any]:
    """An object as JSON: its box is x0, y0, x1, y1 in pixels of the image."""
    box = [round(x * side, 1) for x, side in zip(one["box"], (*image.size, *image.size))]
    confidence = None if one["confidence"] is None else round(one["confidence"], 4)
    return {"box": box, "label": one["label"], "confidence": confidence, "mask": one["mask"]}
