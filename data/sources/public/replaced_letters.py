"""AI2D's lettered diagrams: letters replace the words in boxes of an image."""

from typing import Any

from PIL import Image, ImageDraw, ImageFont

from openpali.data.files.annotations import BadValue, is_whole

_LARGEST = 100  # pixels of a letter's height


def letters_of(content: Any) -> list[list[Any]]:
    """Left, top, right and bottom in pixels, and the letter, of each text of an annotation file.

    Raises:
        BadValue: the file has another layout.
    """
    found = content.get("text") if isinstance(content, dict) else None
    if not isinstance(found, dict):
        raise BadValue('its annotations have no "text"', "Download them again.")
    letters = []
    for key, text in found.items():
        try:
            (left, top), (right, bottom) = text["rectangle"]
            letter = text["replacementText"]
        except (KeyError, TypeError, ValueError) as error:
            raise BadValue(f"the text {key} has no rectangle or no replacementText", "Download it again.") from error
        if not all(map(is_whole, (left, top, right, bottom))) or not isinstance(letter, str):
            raise BadValue(f"the text {key} has no integers as rectangle, or no letter", "Download it again.")
        letters.append([min(left, right), min(top, bottom), max(left, right), max(top, bottom), letter])
    return letters


def draw_letters(image: Image.Image, letters: list[list[Any]]) -> Image.Image:
    """A copy of the image with each letter in black on white, centred in its box and as high as fits."""
    image = image.copy()
    draw = ImageDraw.Draw(image)
    for left, top, right, bottom, letter in letters:
        draw.rectangle((left, top, right, bottom), fill="white")
        font = ImageFont.load_default(max(min(bottom - top, right - left, _LARGEST), 6))
        draw.text(((left + right) / 2, (top + bottom) / 2), letter, fill="black", font=font, anchor="mm")
    return image
