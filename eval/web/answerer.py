"""Answers of the page: prompts about uploaded images and clips, as HTML with drawings of boxes and masks."""

import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, FileSystemLoader
from PIL import Image
from transformers import PreTrainedModel

from openpali.data.masks.rle import decode_rle
from openpali.eval.answering.decoding import Answer
from openpali.eval.predicting.answers import answer_prompts
from openpali.eval.predicting.images import Picture, read_groups
from openpali.eval.predicting.objects import MaskReader, find_objects
from openpali.eval.predicting.output import count_objects
from openpali.eval.report.drawing import OBJECT_COLOURS, draw_predictions
from openpali.eval.report.layers import data_uri
from openpali.eval.web.time_limit import ends_at
from openpali.modeling.user_errors import UserError, explain

LONGEST = 1024  # pixels of a drawing, so that an answer stays small
MOST_ANSWERS = 256
_MENDABLE = (UserError, OSError, ImportError, ValueError, torch.OutOfMemoryError)


@dataclass
class Answers:
    """What stands on the page: cards of answers, messages in one line each, and whether it is finished."""

    cards: list[dict[str, Any]] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    seconds: float | None = None

    def say(self, message: str) -> None:
        """Add a message, once."""
        if message not in self.messages:
            self.messages.append(message)


class Answerer:
    """Answers requests of the page, one at a time."""

    def __init__(
        self,
        model: PreTrainedModel,
        processor: Any,
        masks: MaskReader,
        batch_size: int = 8,
        num_frames: int = 16,
        seconds: float = 120,
    ) -> None:
        """Set the model, and the limits of all requests.

        Args:
            model: any that answers prompts about images.
            processor: of the model.
            masks: reads masks.
            batch_size: prompts that are answered together.
            num_frames: that the model sees of a clip.
            seconds: that a request may take.
        """
        self.model, self.processor, self.masks = model, processor, masks
        self.batch_size, self.num_frames, self.seconds = batch_size, num_frames, seconds
        template = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True)
        self.template = template.get_template("answers.html.j2")

    def answer(
        self, paths: Sequence[str], text: str, together: bool, num_beams: int, max_new_tokens: int
    ) -> Iterator[str]:
        """Answer prompts about images and clips.

        Args:
            paths: of images and clips.
            text: prompts, one a line; an empty text is one empty prompt.
            together: ask each prompt once, about all images.
            num_beams: see `generate`.
            max_new_tokens: likewise.

        Yields:
            HTML of the answers so far, after each batch of images. An error is a line of it.
        """
        shown, began = Answers(), time.monotonic()
        prompts = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip())) or [""]
        try:
            for group in self.read(paths, prompts, together, shown):
                with ends_at(self.model, began + self.seconds, self.seconds):
                    options = (self.batch_size, max_new_tokens, num_beams)
                    answers = answer_prompts(self.model, self.processor, group, prompts, *options)
                for picture, some in zip(group, answers, strict=True):
                    cards = [self.card(picture, *pair, shown) for pair in zip(prompts, some, strict=True)]
                    # one image is known, and of several each is shown once
                    if len(paths) > 1 and not together and not cards[0]["image"]:
                        cards[0]["image"] = data_uri(draw_answer(picture.images[0], []))
                    shown.cards += cards
                yield self.html(shown)
            shown.seconds = time.monotonic() - began
        except _MENDABLE as error:
            shown.say(explain(error))
        except Exception as error:
            # a fault of the program; the page lives on
            traceback.print_exc()
            shown.say(f"no answer, by a fault of the program ({type(error).__name__}): the terminal says more")
        yield self.html(shown)

    def read(
        self, paths: Sequence[str], prompts: Sequence[str], together: bool, shown: Answers
    ) -> Iterator[list[Picture]]:
        """Read images in groups that are answered together; messages say which cannot be read, and why."""
        if not paths:
            raise UserError("there is no image: upload one, or choose an example")
        if len(paths) * len(prompts) > MOST_ANSWERS:
            counts = f"{len(paths):,} images and {len(prompts):,} prompts"
            raise UserError(
                f"{counts} are more than {MOST_ANSWERS} answers: ask less at once, or use openpali predict"
            )

        def skip(path: str, error: Exception) -> None:
            shown.say(explain(error).replace(path, Path(path).name))

        groups = read_groups(paths, self.batch_size, self.num_frames, skip)
        if not together:
            yield from groups
            return
        pictures = [picture for group in groups for picture in group]
        if pictures:
            names = ", ".join(Path(picture.path).name for picture in pictures)
            yield [Picture(names, tuple(image for picture in pictures for image in picture.images))]

    def card(self, picture: Picture, prompt: str, answer: Answer, shown: Answers) -> dict[str, Any]:
        """Values of one answer for the template. A clip, and several images together, are drawn on the first."""
        image = picture.images[0]
        found, rejected = find_objects(answer, image, self.masks)
        if self.masks.missing:
            shown.say(f"masks are left out, since {self.masks.missing}")
        rows = [row_of(one, image, colour) for one, colour in zip(found, cycle(OBJECT_COLOURS))]
        name, counts = Path(picture.path).name, count_objects(found) if found else ""
        return {
            "name": name,
            "prompt": prompt,
            "answer": answer.text,
            "image": data_uri(draw_answer(image, found)) if found else "",
            "alt": f"{name} with {counts}: {', '.join(row['label'] for row in rows)}" if found else name,
            "counts": counts,
            "objects": rows,
            "rejected": [{"text": part, "reason": reason} for part, reason in rejected],
        }

    def html(self, shown: Answers) -> str:
        """The answers as a part of the page, with all text escaped."""
        return self.template.render(shown=shown)


def draw_answer(image: Image.Image, found: Sequence[dict[str, Any]]) -> Image.Image:
    """The image with boxes and masks, labelled with their confidences."""
    labelled = [one | {"label": with_confidence(one)} for one in found]
    return draw_predictions(image, labelled, longest=LONGEST)


def with_confidence(one: dict[str, Any]) -> str:
    """The label of a drawing: name and confidence, where they are known."""
    return " ".join([*([one["label"]] if one["label"] else []), *confidence_of(one)])


def confidence_of(one: dict[str, Any]) -> list[str]:
    """The confidence as text; none where it is unknown."""
    return [] if one["confidence"] is None else [f"{one['confidence']:.2f}"]


def row_of(one: dict[str, Any], image: Image.Image, colour: str) -> dict[str, Any]:
    """A row of the table of objects, in pixels of the image."""
    x0, y0, x1, y1 = (round(x * side) for x, side in zip(one["box"], (*image.size, *image.size)))
    return {
        "colour": colour,
        "label": one["label"] or "no label",
        "confidence": next(iter(confidence_of(one)), ""),
        "x": f"{x0} to {x1}",
        "y": f"{y0} to {y1}",
        "mask": "" if one["mask"] is None else f"{decode_rle(one['mask']).sum():,} px",
    }
