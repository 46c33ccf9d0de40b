"""Drawing of boxes and masks on images."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
from PIL import Image, ImageColor, ImageDraw

from openpali.data.masks.rle import decode_rle
from openpali.eval.report.box_labels import Edges, Labels, ink_on

# blue and orange differ in every kind of colour blindness, and in grey
TRUE_COLOUR = "#1565d8"
PREDICTED_COLOUR = "#ff8f1f"
# six colours with the largest distances under every kind of colour blindness, by search
OBJECT_COLOURS = ("#ff8f1f", "#73ffff", "#a173ff", "#bfff40", "#ff0d5e", "#62d99d")
TINT, HALO = 0.3, 0.6
WIDTH = 448  # pixels; smaller images are enlarged


@dataclass(frozen=True)
class Style:
    """Style of one object: its colour, its frame, and the preferred place of its label."""

    colour: str
    dashed: bool = False
    above: bool = False


TRUE_STYLE = Style(TRUE_COLOUR, dashed=True, above=True)
PREDICTED_STYLE = Style(PREDICTED_COLOUR)


def draw_comparison(
    image: Image.Image,
    true: Sequence[dict[str, Any]],
    predicted: Sequence[dict[str, Any]],
    width: int = WIDTH,
    longest: int | None = None,
) -> Image.Image:
    """Draw ground-truth boxes and masks in blue, dashed, and predicted ones in orange; see `draw_objects`."""
    styled = [(one, TRUE_STYLE) for one in true] + [(one, PREDICTED_STYLE) for one in predicted]
    return draw_objects(image, styled, width, longest)


def draw_predictions(
    image: Image.Image, found: Sequence[dict[str, Any]], width: int = WIDTH, longest: int | None = None
) -> Image.Image:
    """Draw predicted boxes and masks, each in a colour of its own; see `draw_objects`."""
    styled = [(one, Style(colour)) for one, colour in zip(found, cycle(OBJECT_COLOURS))]
    return draw_objects(image, styled, width, longest)


def draw_objects(
    image: Image.Image, styled: Sequence[tuple[dict[str, Any], Style]], width: int, longest: int | None = None
) -> Image.Image:
    """Draw labelled boxes, and masks where objects have them, translucent and with a contour.

    Args:
        image: does not change.
        styled: `{"box": [x0, y0, x1, y1] in [0, 1], "label": str, "mask": RLE or None, optional}`.
        width: smaller images are enlarged to at least this many pixels, so that labels can be read.
        longest: side in pixels to which larger images are reduced.

    Returns:
        A new canvas.
    """
    canvas = resized(image, width, longest)
    line = max(2, round((canvas.width * canvas.height) ** 0.5 / 160))
    # a copy, since Pillow's own memory is read-only
    pixels = np.array(canvas, np.float32)
    masks = [read_mask(one.get("mask"), canvas.size) for one, _ in styled]
    for mask, (_, style) in zip(masks, styled):
        if mask is not None:
            tint_mask(pixels, mask, style)
    for mask, (one, style) in zip(masks, styled):
        draw_frame(pixels, one["box"], style, line, thin=mask is not None)
        if mask is not None:
            draw_contour(pixels, mask, style, line)
    canvas = Image.fromarray(pixels.round().astype(np.uint8))
    draw, labels = ImageDraw.Draw(canvas), Labels(canvas.size, font_size=6 * line)
    for one, style in styled:
        labels.draw(draw, one["label"], pixel_edges(one["box"], canvas.size), style.colour, style.above)
    return canvas


def resized(image: Image.Image, width: int, longest: int | None) -> Image.Image:
    """An RGB copy, enlarged or reduced; see `draw_objects`."""
    scale = max(1.0, width / image.width)
    if longest is not None:
        scale = min(scale, longest / max(image.size))
    # the pixels of the model's input, not smoothed
    filtering = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.BICUBIC
    size = max(round(image.width * scale), 1), max(round(image.height * scale), 1)
    return image.convert("RGB").resize(size, filtering)


def read_mask(rle: dict[str, Any] | None, size: tuple[int, int]) -> np.ndarray | None:
    """Decode an RLE to bool[H, W] at the size (width, height) of the drawing; None without one."""
    if rle is None:
        return None
    layer = Image.fromarray(decode_rle(rle).astype(np.uint8))
    return np.asarray(layer.resize(size, Image.Resampling.NEAREST)) > 0


def tint_mask(pixels: np.ndarray, mask: np.ndarray, style: Style) -> None:
    """Make the colour of a mask, bool[H, W], show through in float[H, W, 3 or 4]; see `tint`."""
    tint(pixels, mask, style.colour, TINT)


def draw_contour(pixels: np.ndarray, mask: np.ndarray, style: Style, line: int) -> None:
    """Draw the border of a mask, bool[H, W], `line` pixels wide."""
    draw_lines(pixels, contour(mask, line), mask, style.colour, max(line // 2, 1))


def draw_frame(pixels: np.ndarray, box: Sequence[float], style: Style, line: int, thin: bool) -> None:
    """Draw a box in [0, 1] into float[H, W, 3 or 4], `line` pixels wide, or half as wide where it is thin."""
    size = (pixels.shape[1], pixels.shape[0])
    thick = max(line // 2, 1) if thin else line
    inside, lines = frame(pixel_edges(box, size), size, thick, style.dashed and 4 * line)
    draw_lines(pixels, lines, inside, style.colour, max(line // 2, 1))


def tint(pixels: np.ndarray, mask: np.ndarray, colour: str, share: float) -> None:
    """Blend a colour into the masked pixels, bool[H, W], of float[H, W, 3], or of premultiplied float[H, W, 4]."""
    blended = np.array([*ImageColor.getrgb(colour)[:3], 255][: pixels.shape[-1]], np.float32)
    pixels[mask] = (1 - share) * pixels[mask] + share * blended


def draw_lines(pixels: np.ndarray, lines: np.ndarray, inside: np.ndarray, colour: str, halo: int) -> None:
    """Draw the border `lines` of the region `inside`, both bool[H, W], with a halo outside for contrast."""
    where = window(inside, halo)
    pixels, lines, inside = pixels[where], lines[where], inside[where]
    wide = lines
    for _ in range(halo):
        wide = around(wide, np.logical_or)
    tint(pixels, wide & ~inside, ink_on(colour), HALO)
    tint(pixels, lines, colour, 1.0)


def contour(mask: np.ndarray, line: int) -> np.ndarray:
    """The outermost `line` pixels of bool[H, W], also along the image's edge."""
    where, edge = window(mask), mask.copy()
    inner = mask[where]
    for _ in range(line):
        inner = around(inner, np.logical_and)
    edge[where] &= ~inner
    return edge


def around(mask: np.ndarray, combine: np.ufunc) -> np.ndarray:
    """Combine each pixel of bool[H, W] with its four neighbours, False beyond the image."""
    padded = np.pad(mask, 1)
    across = combine(padded[1:-1, :-2], padded[1:-1, 2:])
    return combine(combine(combine(padded[:-2, 1:-1], padded[2:, 1:-1]), across), mask)


def window(mask: np.ndarray, margin: int = 0) -> tuple[slice, slice]:
    """Rows and columns of the True part of bool[H, W], with a margin: most objects are smaller than the image."""
    rows, columns = (
        slice(max(some[0] - margin, 0), some[-1] + margin + 1) if len(some) else slice(0)
        for some in (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    )
    return rows, columns


def pixel_edges(box: Sequence[float], size: tuple[int, int]) -> Edges:
    """First and last column and row of a box as x0, y0, x1, y1, within the image."""
    x0, y0, x1, y1 = (round(min(max(x, 0.0), 1.0) * side) for x, side in zip(box, (*size, *size)))
    x0, y0 = min(x0, size[0] - 1), min(y0, size[1] - 1)
    return x0, y0, max(x1 - 1, x0), max(y1 - 1, y0)


def frame(edges: Edges, size: tuple[int, int], line: int, dash: int) -> tuple[np.ndarray, np.ndarray]:
    """bool[H, W] of a rectangle, and of its border of `line` pixels, dashed unless `dash` is 0."""
    (x0, y0, x1, y1), (width, height) = edges, size
    columns, rows = np.arange(width) - x0, np.arange(height)[:, None] - y0
    inside = (columns >= 0) & (columns <= x1 - x0) & (rows >= 0) & (rows <= y1 - y0)
    sides = (columns < line) | (columns > x1 - x0 - line)
    ends = (rows < line) | (rows > y1 - y0 - line)
    if dash:
        sides, ends = sides & (rows // dash % 2 == 0), ends & (columns // dash % 2 == 0)
    return inside, inside & (sides | ends)
