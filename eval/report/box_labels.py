"""Placement of labels on an image: beside their boxes, inside the image, with the least overlap."""

from collections.abc import Iterator

from PIL import ImageColor, ImageDraw, ImageFont

Edges = tuple[int, int, int, int]


class Labels:
    """Places and draws one label after the other."""

    def __init__(self, size: tuple[int, int], font_size: int) -> None:
        """Start with an image of that width and height in pixels."""
        self.size = size
        self.font = ImageFont.load_default(font_size)
        self.margin = max(2, font_size // 5)
        self.taken: list[Edges] = []

    def draw(self, draw: ImageDraw.ImageDraw, text: str, box: Edges, colour: str, above: bool) -> None:
        """Draw a label next to a box: above or below it if there is room, else where it overlaps least.

        Args:
            draw: what to draw with.
            text: not drawn where it is empty or has letters that the font lacks.
            box: x0, y0, x1, y1 in pixels.
            colour: of the background; the text is black or white, whichever has more contrast.
            above: whether to try above the box first, or below.
        """
        text = text.strip()
        # Pillow's own font draws other letters as hollow squares
        if not text or not all(letter.isprintable() and ord(letter) < 256 for letter in text):
            return
        text = self.shortened(text)
        left, _, right, _ = self.font.getbbox(text)
        # one height for all labels, whether their letters have descenders or not
        _, top, _, bottom = self.font.getbbox("Ág")
        wide, high = round(right - left) + 2 * self.margin, round(bottom - top) + self.margin
        x, y = self.place(box, wide, high, above)
        self.taken.append((x, y, x + wide, y + high))
        draw.rectangle((x, y, x + wide - 1, y + high - 1), fill=colour)
        draw.text((x + self.margin - left, y + self.margin / 2 - top), text, fill=ink_on(colour), font=self.font)

    def shortened(self, text: str) -> str:
        """The text, cut to the width of the image."""
        room, kept = self.size[0] - 2 * self.margin, text
        while len(kept) > 1 and self.font.getlength(text if kept == text else f"{kept}...") > room:
            kept = kept[:-1].rstrip()
        return text if kept == text else f"{kept}..."

    def place(self, box: Edges, wide: int, high: int, above: bool) -> tuple[int, int]:
        """Left and top of a label: the first candidate that overlaps least with the labels before it."""
        right, bottom = max(self.size[0] - wide, 0), max(self.size[1] - high, 0)
        # inside the image, even over the box
        places = [(min(max(x, 0), right), min(max(y, 0), bottom)) for x, y in self.candidates(box, wide, high, above)]

        def covered(place: tuple[int, int]) -> int:
            x, y = place
            return sum(shared(other, (x, y, x + wide, y + high)) for other in self.taken)

        return min(places, key=covered)

    def candidates(self, box: Edges, wide: int, high: int, above: bool) -> Iterator[tuple[int, int]]:
        """Corners of the box, outside and then inside; then next to the earlier labels."""
        x0, y0, x1, y1 = box
        outside, inside = [y0 - high, y1 + 1], [y0, y1 + 1 - high]
        for rows in (outside, inside):
            for y in rows if above else rows[::-1]:
                yield x0, y
                yield x1 + 1 - wide, y
        for _, top, _, bottom in self.taken:
            yield x0, bottom
            yield x0, top - high


def shared(a: Edges, b: Edges) -> int:
    """Pixels that two rectangles share."""
    return max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)


def ink_on(colour: str) -> str:
    """Black or white, whichever has the higher contrast (relative luminance of WCAG 2)."""
    channels = [value / 255 for value in ImageColor.getrgb(colour)[:3]]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "black" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "white"
