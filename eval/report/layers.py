"""The picture of an example on a page: its image, and boxes and masks in layers that a reader can switch off."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, features

from openpali.eval.report.box_labels import Labels
from openpali.eval.report.drawing import (
    PREDICTED_STYLE,
    TRUE_STYLE,
    WIDTH,
    Style,
    draw_contour,
    draw_frame,
    pixel_edges,
    read_mask,
    resized,
    tint_mask,
)

LONGEST = 480  # pixels; larger images are reduced, so that the page stays small
QUALITY = 80

Styled = Sequence[tuple[dict[str, Any], Style]]


@dataclass(frozen=True)
class Drawing:
    """What one card shows, as `data:` URIs.

    Attributes:
        image: the image alone.
        masks: a transparent layer of the size of the drawing; None without masks.
        boxes: likewise, with the names of the objects.
        sharp: whether the image is so small that its pixels are shown as squares, as the model saw them.
        words: the objects, for those who do not see the drawing.
    """

    image: str
    masks: str | None
    boxes: str | None
    sharp: bool
    words: str

    @property
    def size(self) -> int:
        """Bytes of all layers on the page."""
        return sum(len(uri) for uri in (self.image, self.masks, self.boxes) if uri)


def draw_layers(image: Image.Image, true: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]]) -> Drawing:
    """The layers of an image with ground-truth objects in blue, dashed, and predicted ones in orange.

    Args:
        image: does not change.
        true: `{"box": [x0, y0, x1, y1] in [0, 1], "label": str, "mask": RLE or None, optional}`.
        found: likewise.
    """
    styled = [(one, TRUE_STYLE) for one in true] + [(one, PREDICTED_STYLE) for one in found]
    size = resized(image, WIDTH, LONGEST).size
    masks = [read_mask(one.get("mask"), size) for one, _ in styled]
    with_masks = any(mask is not None for mask in masks)
    return Drawing(
        image=data_uri(reduced(image)),
        masks=data_uri(mask_layer(size, styled, masks)) if with_masks else None,
        boxes=data_uri(box_layer(size, styled, masks)) if styled else None,
        sharp=image.width * 2 <= size[0],
        words="; ".join(filter(None, [names_of("ground truth", true), names_of("predicted", found)])),
    )


def names_of(what: str, objects: Sequence[dict[str, Any]]) -> str:
    """The names of objects; empty without objects."""
    names = ", ".join(one["label"] or "an object without a name" for one in objects)
    return f"{what}: {names}" if names else ""


def mask_layer(size: tuple[int, int], styled: Styled, masks: Sequence[np.ndarray | None]) -> Image.Image:
    """A transparent image of the masks, bool[H, W] or None, translucent and with contours."""
    # premultiplied by the opacity, over which further colours are laid as over any image
    pixels = np.zeros((size[1], size[0], 4), np.float32)
    for mask, (_, style) in zip(masks, styled):
        if mask is not None:
            tint_mask(pixels, mask, style)
    for mask, (_, style) in zip(masks, styled):
        if mask is not None:
            draw_contour(pixels, mask, style, line_width(size))
    return straight(pixels)


def box_layer(size: tuple[int, int], styled: Styled, masks: Sequence[np.ndarray | None]) -> Image.Image:
    """A transparent image of the frames and the names; frames of objects with a mask are thinner."""
    pixels, line = np.zeros((size[1], size[0], 4), np.float32), line_width(size)
    for mask, (one, style) in zip(masks, styled):
        draw_frame(pixels, one["box"], style, line, thin=mask is not None)
    layer = straight(pixels)
    draw, labels = ImageDraw.Draw(layer), Labels(size, font_size=6 * line)
    for one, style in styled:
        labels.draw(draw, one["label"], pixel_edges(one["box"], size), style.colour, style.above)
    return layer


def line_width(size: tuple[int, int]) -> int:
    """Pixels of a line in a drawing of that width and height."""
    return max(2, round((size[0] * size[1]) ** 0.5 / 160))


def straight(pixels: np.ndarray) -> Image.Image:
    """An RGBA image of float[H, W, 4] in [0, 255], whose colours are premultiplied by the opacity."""
    opacity = pixels[..., 3:]
    colours = np.divide(pixels[..., :3] * 255, opacity, out=np.zeros_like(pixels[..., :3]), where=opacity > 0)
    return Image.fromarray(np.concatenate([colours, opacity], -1).round().astype(np.uint8))


def reduced(image: Image.Image, longest: int = LONGEST) -> Image.Image:
    """The image, or a smaller copy where a side has more pixels."""
    if max(image.size) <= longest:
        return image
    copy = image.convert("RGB")
    copy.thumbnail((longest, longest), Image.Resampling.BICUBIC)
    return copy


def data_uri(image: Image.Image) -> str:
    """The image as a `data:` URI: WebP, without loss where it is transparent."""
    buffer, layer = io.BytesIO(), image.mode == "RGBA"
    if features.check("webp"):
        kind, options = "webp", {"lossless": True} if layer else {"quality": QUALITY}
    else:
        kind, options = ("png", {"optimize": True}) if layer else ("jpeg", {"quality": QUALITY})
    (image if layer else image.convert("RGB")).save(buffer, kind, **options)
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode()
