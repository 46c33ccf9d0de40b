"""`image_rules`: drops images that are too small, too long and narrow, or of one colour."""

from dataclasses import dataclass

from openpali.scripts.web.samples import KEEP, Verdict, WebSample


@dataclass(frozen=True)
class ImageRules:
    """Rules on the image.

    Attributes:
        least_side: pixels of the shorter side.
        most_aspect: longer side divided by the shorter one.
        least_range: difference of the darkest and the brightest value, in 0..255; 0 lets images of one colour pass.
    """

    least_side: int = 64
    most_aspect: float = 3.0
    least_range: int = 8

    def __post_init__(self) -> None:
        if self.least_side < 1 or self.most_aspect < 1 or not 0 <= self.least_range <= 255:
            raise ValueError("least_side and most_aspect are at least 1, least_range is from 0 to 255")

    def __call__(self, batch: list[WebSample]) -> list[Verdict]:
        """A reason where an image breaks a rule."""
        return [Verdict(drop=reason) if (reason := self.fault(sample)) else KEEP for sample in batch]

    def fault(self, sample: WebSample) -> str:
        """Why an image is dropped, or nothing."""
        least, most = sorted(sample.image.size)
        if least < self.least_side:
            return "image too small"
        if most > self.most_aspect * least:
            return "image too long and narrow"
        darkest, brightest = sample.image.convert("L").getextrema()
        return "image of one colour" if brightest - darkest < self.least_range else ""  # type: ignore[operator]
