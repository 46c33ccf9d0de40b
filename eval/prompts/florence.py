"""Florence-2's prompts and answers: task tokens in, boxes and polygons out.

Its processor replaces the task tokens by sentences, except `<VQA>`, which its fine-tuned releases take as it is. The
processor's `post_process_generation` parses the answers.
"""

import re
from typing import Any

import numpy as np
import torch

from openpali.data.example import Example
from openpali.data.masks.rle import encode_rle, mask_box, polygons_mask
from openpali.eval.prompts.request import PromptRequest, read_prompt

_TOKEN = re.compile(r"<[A-Z_]+>")
_SENTENCES = {True: "<REFERRING_EXPRESSION_SEGMENTATION>", False: "<CAPTION_TO_PHRASE_GROUNDING>"}
# tokenizers may write spaces between location tokens, which its processor does not expect
_SPACE = re.compile(r"\s+(?=<(?:loc_\d+|/?poly|sep)>)")
# at this size the centres of its 1,000 bins a side are whole pixels, to which its processor rounds
_SIZE = 10_000


def florence_prompt(processor: Any, example: Example) -> str:
    """The prompt in its format, such as `<OPEN_VOCABULARY_DETECTION>dog`."""
    return "".join(florence_task(example))


def florence_task(example: Example) -> tuple[str, str]:
    """The task token, and the text after it.

    A prompt that begins with a token stays as it is. Open-vocabulary detection takes one phrase, so several names are
    selected from the objects that `<OD>` detects.
    """
    if match := _TOKEN.match(example.prefix):
        return match[0], example.prefix[match.end() :]
    request = read_prompt(example)
    tokens = {
        "caption": ("<CAPTION>", ""),
        "ocr": ("<OCR>", ""),
        "detect": ("<OPEN_VOCABULARY_DETECTION>", request.words) if len(request.names) == 1 else ("<OD>", ""),
        "segment": ("<REFERRING_EXPRESSION_SEGMENTATION>", " and ".join(request.names)),
        "refer": (_SENTENCES[bool(example.masks)], request.words),
    }
    return tokens.get(request.kind, ("<VQA>", request.words))


def read_florence(processor: Any, ids: torch.Tensor, example: Example) -> tuple[str, list[dict[str, Any]] | None]:
    """Parse an answer, int[T].

    Returns:
        The text, and its objects as `{"box": [x0, y0, x1, y1] in [0, 1], "label", "mask": RLE or None}`; None in place
        of the objects where the task's answer is text alone.
    """
    tokenizer = processor.tokenizer
    # location tokens may be special tokens too, and belong to the answer
    dropped = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]
    text = processor.decode([i for i in ids.tolist() if i not in dropped], skip_special_tokens=False).strip()
    text = _SPACE.sub("", text)
    token, _ = florence_task(example)
    found = processor.post_process_generation(text, task=token, image_size=(_SIZE, _SIZE))[token]
    if isinstance(found, str):
        return found, None
    return text, parse_objects(found, read_prompt(example), example.images[0].size if example.images else (1, 1))


def parse_objects(found: dict[str, Any], request: PromptRequest, size: tuple[int, int]) -> list[dict[str, Any]]:
    """Boxes and masks from its processor's output, for an image of that width and height in pixels.

    Labels are spelled as in the prompt; objects of `<OD>` that the prompt does not name are left out.
    """
    boxes = zip(found.get("bboxes", []), found.get("labels") or found.get("bboxes_labels") or [])
    rows = [{"box": [x / _SIZE for x in box], "label": label, "mask": None} for box, label in boxes]
    shapes = zip(found.get("polygons", []), found.get("polygons_labels") or found.get("labels") or [])
    rows += [row for polygons, label in shapes if (row := polygon_object(polygons, label, size))]
    if request.kind == "refer":
        return [row | {"label": ""} for row in rows]
    if len(request.names) == 1 and request.kind in ("detect", "segment"):
        return [row | {"label": request.names[0]} for row in rows]
    wanted = {name.lower() for name in request.names}
    return [row for row in rows if request.kind != "detect" or row["label"].lower() in wanted]


def polygon_object(polygons: list[list[int]], label: str, size: tuple[int, int]) -> dict[str, Any] | None:
    """An object with the mask of its polygons; None when they enclose no pixel."""
    width, height = size
    shapes = [np.reshape(shape, (-1, 2)) * [width / _SIZE, height / _SIZE] for shape in polygons if len(shape) >= 6]
    mask = polygons_mask([shape.ravel() for shape in shapes], height, width)
    if not mask.any():
        return None
    box = mask_box(mask)
    return {"box": [box.x0, box.y0, box.x1, box.y1], "label": label, "mask": encode_rle(mask)}
