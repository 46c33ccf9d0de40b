"""Florence-2's prompts and answers: task tokens in, boxes and polygons of its own out.

The tokens are those of its processor, which replaces them by sentences; `<VQA>` is that of its fine-tuned releases and
stays as it is. Its answers are read by its processor's `post_process_generation`.
"""

import re
from typing import Any

import numpy as np
import torch

from openpali.data.example import Example
from openpali.data.masks.rle import encode_rle, mask_box, polygons_mask
from openpali.eval.prompts.request import Asked, read_prompt

_TOKEN = re.compile(r"<[A-Z_]+>")
_SENTENCES = {True: "<REFERRING_EXPRESSION_SEGMENTATION>", False: "<CAPTION_TO_PHRASE_GROUNDING>"}
# tokenizers may write spaces between places, which its processor does not expect
_SPACE = re.compile(r"\s+(?=<(?:loc_\d+|/?poly|sep)>)")
# its 1,000 bins a side then have centres in whole pixels, which is what its processor rounds to
_FINE = 10_000


def florence_prompt(processor: Any, example: Example) -> str:
    """The prompt in its words, such as `<OPEN_VOCABULARY_DETECTION>dog`."""
    return "".join(florence_task(example))


def florence_task(example: Example) -> tuple[str, str]:
    """The task token, and what stands behind it.

    A prompt that begins with a token is left as it is. Its open detection takes one phrase, so several names are
    looked for among everything that `<OD>` finds.
    """
    if match := _TOKEN.match(example.prefix):
        return match[0], example.prefix[match.end() :]
    asked = read_prompt(example)
    tokens = {
        "caption": ("<CAPTION>", ""),
        "ocr": ("<OCR>", ""),
        "detect": ("<OPEN_VOCABULARY_DETECTION>", asked.words) if len(asked.names) == 1 else ("<OD>", ""),
        "segment": ("<REFERRING_EXPRESSION_SEGMENTATION>", " and ".join(asked.names)),
        "refer": (_SENTENCES[bool(example.masks)], asked.words),
    }
    return tokens.get(asked.kind, ("<VQA>", asked.words))


def read_florence(processor: Any, ids: torch.Tensor, example: Example) -> tuple[str, list[dict[str, Any]] | None]:
    """Text and things of an answer, int[T].

    Returns:
        The answer as it was written, and for a task that finds things `{"box": [x0, y0, x1, y1] in [0, 1], "label",
        "mask": run lengths or None}` of each; None for a task that ends in words.
    """
    tokenizer = processor.tokenizer
    # its places may be special tokens too, and are the answer
    noise = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]
    text = processor.decode([i for i in ids.tolist() if i not in noise], skip_special_tokens=False).strip()
    text = _SPACE.sub("", text)
    token, _ = florence_task(example)
    found = processor.post_process_generation(text, task=token, image_size=(_FINE, _FINE))[token]
    if isinstance(found, str):
        return found, None
    return text, things(found, read_prompt(example), example.images[0].size if example.images else (1, 1))


def things(found: dict[str, Any], asked: Asked, size: tuple[int, int]) -> list[dict[str, Any]]:
    """Boxes and masks that its processor has read, for an image of that width and height in pixels.

    Names that were asked for are kept as they were written in the prompt, and others that `<OD>` found are left out.
    """
    boxes = zip(found.get("bboxes", []), found.get("labels") or found.get("bboxes_labels") or [])
    rows = [{"box": [x / _FINE for x in box], "label": label, "mask": None} for box, label in boxes]
    shapes = zip(found.get("polygons", []), found.get("polygons_labels") or found.get("labels") or [])
    rows += [row for polygons, label in shapes if (row := polygon_thing(polygons, label, size))]
    if asked.kind == "refer":
        return [row | {"label": ""} for row in rows]
    if len(asked.names) == 1 and asked.kind in ("detect", "segment"):
        return [row | {"label": asked.names[0]} for row in rows]
    wanted = {name.lower() for name in asked.names}
    return [row for row in rows if asked.kind != "detect" or row["label"].lower() in wanted]


def polygon_thing(polygons: list[list[int]], label: str, size: tuple[int, int]) -> dict[str, Any] | None:
    """A thing with the mask that polygons enclose; None when they enclose no pixel."""
    width, height = size
    shapes = [np.reshape(shape, (-1, 2)) * [width / _FINE, height / _FINE] for shape in polygons if len(shape) >= 6]
    mask = polygons_mask([shape.ravel() for shape in shapes], height, width)
    if not mask.any():
        return None
    box = mask_box(mask)
    return {"box": [box.x0, box.y0, box.x1, box.y1], "label": label, "mask": encode_rle(mask)}
