"""Masks in given boxes, by the Segment Anything models of Transformers."""

import numpy as np
import torch
from PIL import Image

from openpali.scripts.web.labelling.label_models import load_label_model, to_model


@torch.no_grad()
def box_masks(model: str, dtype: str, image: Image.Image, boxes: list[list[float]]) -> list[tuple[np.ndarray, float]]:
    """The mask in each box, bool[H, W] of the image, and the IoU that the model predicts for it.

    Args:
        model: folder or Hub name.
        dtype: of its weights.
        image: RGB.
        boxes: `[x0, y0, x1, y1]` in [0, 1], at least one.
    """
    loaded, processor = load_label_model("masks", model, dtype)
    pixels = (np.array(boxes) * (image.size * 2)).tolist()
    inputs = processor(images=image, input_boxes=[pixels], return_tensors="pt")
    outputs = loaded(**to_model(inputs, loaded, ("pixel_values", "input_boxes")), multimask_output=False)
    sizes = {key: inputs[key] for key in ("original_sizes", "reshaped_input_sizes") if key in inputs}
    ious = outputs.iou_scores[0, :, 0].float().tolist()
    # one at a time: all of a large image would need gigabytes
    logits = outputs.pred_masks[0].float().cpu().split(1)
    return [
        (processor.post_process_masks([own], **sizes)[0][0, 0].numpy(), iou)
        for own, iou in zip(logits, ious, strict=True)
    ]
