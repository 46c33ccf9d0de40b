"""Boxes of named things by zero-shot detectors of Transformers: OWL-ViT, OWLv2 and Grounding DINO.

Shapes: `B` images, `Q` candidates of an image, `N` names, `T` tokens.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from transformers.image_transforms import center_to_corners_format

from openpali.modeling.user_errors import UserError
from openpali.scripts.web.labelling.label_models import load_label_model, to_model

PHRASE = {"owlvit": "a photo of a {}", "owlv2": "a photo of a {}"}
"""What OWL models were asked in their training; other ones take the names."""


class Found(NamedTuple):
    """A thing on an image: its name, its box `[x0, y0, x1, y1]` in [0, 1], and its score."""

    name: str
    box: list[float]
    score: float


@torch.no_grad()
def candidates(
    model: str, dtype: str, images: Sequence[Image.Image], names: Sequence[Sequence[str]]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Boxes and scores of all candidates on images.

    Args:
        model: folder or Hub name.
        dtype: of its weights.
        images: RGB.
        names: of the things to look for on each image, at least one.

    Returns:
        For each image float[Q, 4] in [0, 1], clipped to the image, and float[Q, N], on the CPU.

    Raises:
        UserError: the names of an image are too many for the model.
    """
    loaded, processor = load_label_model("boxes", model, dtype)
    kind = loaded.config.model_type
    if kind in PHRASE:
        texts = [[PHRASE[kind].format(name) for name in own] for own in names]
        inputs = processor(images=list(images), text=texts, return_tensors="pt", truncation=True)
        outputs = loaded(**to_model(inputs, loaded))
        scores = [own[:, : len(asked)] for own, asked in zip(outputs.logits.float().sigmoid().cpu(), names)]
    else:
        texts = [f"{'. '.join(_plain(name) for name in own)}." for own in names]
        inputs = processor(images=list(images), text=texts, return_tensors="pt", padding=True)
        check_length(model, inputs["input_ids"], loaded.config.max_text_len)
        outputs = loaded(**to_model(inputs, loaded))
        stop = processor.tokenizer.convert_tokens_to_ids(".")
        scored = zip(outputs.logits.float().sigmoid().cpu(), inputs["input_ids"].tolist(), names)
        scores = [name_scores(own, ids, stop, len(asked)) for own, ids, asked in scored]
    boxes: Any = center_to_corners_format(outputs.pred_boxes.float().cpu())
    return [(_within(own, image, kind), score) for own, image, score in zip(boxes, images, scores)]


def check_length(model: str, ids: torch.Tensor, most: int) -> None:
    """Raise UserError where names are longer than the texts of a model."""
    if ids.shape[1] > most:
        raise UserError(f"{model} reads {most} tokens, and the names have {ids.shape[1]}: lower things_at_once")


def name_scores(scores: torch.Tensor, ids: list[int], stop: int, count: int) -> torch.Tensor:
    """The score of each name of a text: that of the best of its tokens.

    Args:
        scores: float[Q, T] of the tokens.
        ids: of the text, in which every name is followed by a full stop.
        stop: id of the full stop.
        count: of names.

    Returns:
        float[Q, N].
    """
    stops = [place for place, token in enumerate(ids) if token == stop][:count]
    starts = [1, *(place + 1 for place in stops[:-1])]
    return torch.stack([scores[:, start:end].amax(dim=1) for start, end in zip(starts, stops, strict=True)], dim=1)


def best_boxes(found: Sequence[Found], given: Sequence[Found], most_overlap: float, most_boxes: int) -> list[Found]:
    """Those of found things that overlap no better one of their name, the best first.

    Args:
        found: of one image.
        given: things that are known before, which all others give way to.
        most_overlap: largest IoU of two boxes of one name.
        most_boxes: of the result.
    """
    import cv2

    things = [*given, *found]
    if len(things) == len(given):
        return []
    names = {name: number for number, name in enumerate(dict.fromkeys(thing.name for thing in things))}
    corners = np.array([thing.box for thing in things])
    # a corner, width and height; what is given has the best scores
    rectangles = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    scores = [2.0] * len(given) + [thing.score for thing in things[len(given) :]]
    kinds = [names[thing.name] for thing in things]
    kept = cv2.dnn.NMSBoxesBatched(rectangles.tolist(), scores, kinds, 0.0, most_overlap)
    new = [things[place] for place in sorted(int(place) for place in kept) if place >= len(given)]
    return sorted(new, key=lambda thing: -thing.score)[:most_boxes]


def _plain(name: str) -> str:
    """A name without full stops, which part the names of a text."""
    return " ".join(name.lower().replace(".", " ").split())


def _within(boxes: torch.Tensor, image: Image.Image, kind: str) -> torch.Tensor:
    """Boxes in shares of the image: OWLv2 pads it to a square at the right and at the bottom."""
    if kind == "owlv2":
        boxes = boxes * max(image.size) / torch.tensor(image.size * 2)
    return boxes.clamp(0, 1)


def good_candidates(
    boxes: torch.Tensor, scores: torch.Tensor, names: list[str], least_score: float
) -> Iterator[Found]:
    """Candidates with a good score and a box of some size, each with its best name.

    Args:
        boxes: float[Q, 4] of the candidates.
        scores: float[Q, N] of the names.
        names: N names.
        least_score: of a candidate.
    """
    best = scores.max(dim=1)
    for box, score, place in zip(boxes.tolist(), best.values.tolist(), best.indices.tolist()):
        x0, y0, x1, y1 = (round(edge, 4) for edge in box)
        if score >= least_score and x0 < x1 and y0 < y1:
            yield Found(names[place], [x0, y0, x1, y1], round(score, 4))


def read_things(given: tuple[str, ...]) -> tuple[str, ...]:
    """Names, or the lines of a text file where there is one name, that of such a file.

    Raises:
        ValueError: there is no such file, or it has no names.
    """
    if len(given) != 1 or not given[0].endswith(".txt"):
        return tuple(dict.fromkeys(given))
    try:
        lines = Path(given[0]).read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"things: {given[0]} cannot be read ({error})") from error
    names = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not names:
        raise ValueError(f"things: {given[0]} has no names")
    return names
