"""Confidences of predicted boxes, from the probabilities of their tokens.

Mean average precision ranks boxes by confidence, which text lacks. Here the confidence of a box is

    (p(y1) p(x1) p(y2) p(x2)) ^ (1/4)  times  the product of p over the tokens of its label,

where p is the probability of a token given the prompt and everything before it, the boxes before it included. It is
the confidence in the location times that in the label. The geometric mean keeps the four location tokens from
outweighing the label. A label of several tokens is one name, so their probabilities are multiplied. Segmentation
tokens and the `;` between boxes do not count.

A model that was trained to write a confidence behind each label (`confidence` of the task `detect`) says it itself:
the probability of `<loc1023>`, or 1 less that of `<loc0000>` where it writes that.
"""

import math
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from openpali.eval.answering.decoding import Token
from openpali.modeling.location_tokens import SURE, UNSURE, LocatedBox, read_box

_LOCATION = re.compile(r"<loc[0-9]{4}>")
_CODE = re.compile(r"<seg[0-9]{3}>")


def box_confidences(tokens: Sequence[Token], boxes: Sequence[dict[str, Any]]) -> list[float]:
    """A confidence in [0, 1] for each box that a task parsed from an answer.

    A box in another format than location tokens (of another model or task) has the geometric mean of the probabilities
    of all tokens of the answer.

    Args:
        tokens: of the answer.
        boxes: `{"box": [x0, y0, x1, y1] in [0, 1], …}`, in the order of the answer.
    """
    parts = parse_boxes(tokens)
    whole = math.exp(sum(token.log_p for token in tokens) / max(len(tokens), 1))
    confidences = []
    for box in boxes:
        match = next((i for i, (found, _) in enumerate(parts) if same_box(found, box["box"])), None)
        # each part of the text is one box, so that a box written twice has two confidences
        confidences.append(whole if match is None else parts.pop(match)[1])
    return confidences


def answer_confidence(row: Mapping[str, Any]) -> float:
    """The probability of a whole answer, from the tokens of its row of predictions; 1 where the row has none."""
    return math.exp(sum(log_p for _, log_p in row.get("tokens") or ()))


def parse_boxes(tokens: Sequence[Token]) -> list[tuple[LocatedBox, float]]:
    """The boxes between semicolons, each of exactly four location tokens, and their confidences."""
    found = []
    for separator, group in groupby(tokens, key=lambda token: ";" in token.text):
        places, names, part = [], [], [] if separator else list(group)
        learned = written_confidence(part)
        for token in part:
            if _LOCATION.fullmatch(token.text.strip()):
                places.append(token)
            elif not _CODE.fullmatch(token.text.strip()):
                names.append(token)
        places = places if learned is None else places[:-1]
        box = read_box("".join(token.text for token in places), "")
        if isinstance(box, LocatedBox):
            log_p = sum(token.log_p for token in places) / 4 + sum(token.log_p for token in names)
            found.append((box, math.exp(log_p) if learned is None else learned))
    return found


def written_confidence(part: Sequence[Token]) -> float | None:
    """The confidence that a model writes behind the label of a box; None where there is none."""
    words = [(word, token.log_p) for token in part if (word := token.text.strip())]
    if len(words) < 6 or words[-1][0] not in (SURE, UNSURE) or _LOCATION.fullmatch(words[-2][0]):
        return None
    word, log_p = words[-1]
    return math.exp(log_p) if word == SURE else 1 - math.exp(log_p)


def same_box(box: LocatedBox, other: Sequence[float]) -> bool:
    """Whether x0, y0, x1, y1 are the box's."""
    return all(abs(a - b) < 1e-6 for a, b in zip(box.normalised_xyxy(), other, strict=True))
