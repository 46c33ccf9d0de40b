"""Boxes drawn on pictures."""

from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

TRUE_COLOUR = "#0ca678"
PREDICTED_COLOUR = "#f76707"


def draw_boxes(
    image: Image.Image, true: Sequence[dict[str, Any]], predicted: Sequence[dict[str, Any]], width: int = 320
) -> Image.Image:
    """The picture with labelled boxes: true ones green, their labels above, predicted ones orange, labels below.

    Args:
        image: is not changed.
        true: `{"box": [x0, y0, x1, y1] in [0, 1], "label": str}`.
        predicted: likewise.
        width: smaller pictures are enlarged to at least this many pixels, so that labels can be read.

    Returns:
        A new picture.
    """
    scale = max(1.0, width / image.width)
    # the model's own pixels, not a smoothed version that shows more than it saw
    filtering = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.BICUBIC
    picture = image.convert("RGB").resize((round(image.width * scale), round(image.height * scale)), filtering)
    draw = ImageDraw.Draw(picture)
    size = max(picture.width // 26, 12)
    for box in true:
        draw_box(draw, picture.size, box, TRUE_COLOUR, size, above=True)
    for box in predicted:
        draw_box(draw, picture.size, box, PREDICTED_COLOUR, size, above=False)
    return picture


def draw_box(
    draw: ImageDraw.ImageDraw, picture: tuple[int, int], box: dict[str, Any], colour: str, size: int, above: bool
) -> None:
    """One frame and its label, kept inside the picture."""
    x0, y0, x1, y1 = (round(min(max(x, 0.0), 1.0) * side) for x, side in zip(box["box"], (*picture, *picture)))
    # the frame's own pixels lie inside the box
    x1, y1 = max(x1 - 1, x0), max(y1 - 1, y0)
    draw.rectangle((x0, y0, x1, y1), outline=colour, width=max(2, size // 6))
    label = box["label"]
    # the font that comes with Pillow has no other letters, and hollow squares help nobody
    if not label or not all(letter.isprintable() and ord(letter) < 256 for letter in label):
        return
    font = ImageFont.load_default(size)
    left, top, right, bottom = font.getbbox(label)
    wide, high = right - left + 6, bottom - top + 6
    x = min(max(x0, 0), max(picture[0] - wide, 0))
    y = min(max(y0 - high if above else y1, 0), picture[1] - high)
    draw.rectangle((x, y, x + wide, y + high), fill=colour)
    draw.text((x + 3 - left, y + 3 - top), label, fill="white", font=font)
