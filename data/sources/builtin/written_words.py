"""Words written on the built-in images, for OCR."""

import functools
import random

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_WORDS = (
    "ant bag bat bed bee big boat book box boy bus cake car cat cold cup day dog door down duck egg exit eye fan "
    "farm fast fire fish flag fly fox free frog gate girl go gold good green hand hat hello home hot house ice "
    "in ink jam jar key king kite lake left lion love man map milk moon new nest no north now off old on one "
    "open out park pen pig play pull push queen rain red ring road room run salt sea ship shop sky slow snow "
    "sofa south star stop sun taxi tea ten tree two up van walk water west wind wolf yes zoo"
)
WORDS = tuple(_WORDS.split())

_INKS = (("white", "black"), ("black", "white"), ("yellow", "black"), ("white", "navy"), ("darkred", "white"))


@functools.cache
def _font(pixels: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(pixels)


def draw_word(text: str, size: tuple[int, int], rng: random.Random) -> tuple[np.ndarray, Image.Image]:
    """A word with a contrasting outline, at a random place on a transparent image of a width and height.

    Returns:
        `ink: bool[H, W]` and the RGBA image to paste.
    """
    font = _font(max(round(min(size) * rng.uniform(0.15, 0.22)), 10))
    x0, y0, x1, y1 = ImageDraw.Draw(Image.new("RGBA", (1, 1))).textbbox((0, 0), text, font=font, stroke_width=1)
    width, height = size
    left, top = rng.randint(0, max(width - int(x1 - x0), 0)), rng.randint(0, max(height - int(y1 - y0), 0))
    image = Image.new("RGBA", size)
    fill, stroke = rng.choice(_INKS)
    at = (left - x0, top - y0)
    ImageDraw.Draw(image).text(at, text, fill=fill, font=font, stroke_width=1, stroke_fill=stroke)
    return np.asarray(image.getchannel("A")) > 127, image
