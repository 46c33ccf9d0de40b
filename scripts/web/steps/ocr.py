"""`ocr`: the words on an image and where they are, for the task `ocr`."""

from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch
from PIL import Image

from openpali.data.example import Box
from openpali.data.tasks.ocr import raster_order
from openpali.modeling.user_errors import UserError
from openpali.scripts.web.labelling.ocr_engines import OWN, engine_name, load_engine
from openpali.scripts.web.labelling.rapid_ocr import read_words
from openpali.scripts.web.running.samples import Verdict, WebSample


@dataclass(frozen=True)
class Ocr:
    """Label `words`: text and box of each word, line by line. Words that a record has are kept.

    Attributes:
        engine: `rapidocr`, or `package.module:function`, a function from an RGB image to a list of (text, box,
            score), whose boxes are `[x0, y0, x1, y1]` or four corners in pixels.
        least_score: words that the engine is less sure of, from 0 to 1, are left out.
        least_height: likewise lower ones, in pixels of the image.
        most_words: of an image; the surest stay.
        threads: of RapidOCR on the CPU.
    """

    engine: str = OWN
    least_score: float = 0.9
    least_height: float = 8.0
    most_words: int = 200
    threads: int = 1

    def __post_init__(self) -> None:
        if min(self.most_words, self.threads) < 1 or min(self.least_score, self.least_height) < 0:
            raise ValueError("most_words and threads are at least 1, least_score and least_height at least 0")
        if self.engine != OWN and not all(self.engine.partition(":")):
            raise ValueError(f"engine is {OWN} or package.module:function, not {self.engine!r}")
        if self.engine != OWN:
            load_engine(self.engine)
        elif find_spec("rapidocr") is None:
            raise ModuleNotFoundError("there is no package rapidocr", name="rapidocr")

    def __call__(self, batch: list[WebSample]) -> list[Verdict]:
        """The words on each image."""
        return [self.verdict(sample) for sample in batch]

    def verdict(self, sample: WebSample) -> Verdict:
        """The words on an image."""
        if sample.record.get("words"):
            return Verdict(values={"words": len(sample.record["words"])})
        readings = self.readings(sample)
        high = [own for own in readings if own[2] >= self.least_score and np.ptp(own[1][:, 1]) >= self.least_height]
        surest = sorted(high, key=lambda own: -own[2])[: self.most_words]
        words = raster_order([{"text": text, "box": _box(corners, sample.image)} for text, corners, _ in surest])
        listed = [{"text": word["text"], "box": _edges(word["box"])} for word in words]
        return Verdict(
            labels={"words": listed}, models={"words": engine_name(self.engine)}, values={"words": len(listed)}
        )

    def readings(self, sample: WebSample) -> list[tuple[str, np.ndarray, float]]:
        """Texts, corners in pixels and scores of an image. Raises UserError for others of an engine."""
        if self.engine == OWN:
            return read_words(sample.image, self.threads, torch.cuda.is_available())
        found = load_engine(self.engine)(sample.image)
        try:
            rows = [
                (str(text).strip(), np.array(box, float).reshape(-1, 2), float(score)) for text, box, score in found
            ]
        except (TypeError, ValueError) as error:
            wanted = "(text, box, score), with boxes [x0, y0, x1, y1] or four corners in pixels"
            raise UserError(f"{sample.shard}.tar:{sample.key}: {self.engine} gives no list of {wanted}") from error
        return [row for row in rows if row[0]]


def _box(corners: np.ndarray, image: Image.Image) -> Box:
    """The box around corners, in [0, 1] with four digits."""
    share = (corners / image.size).clip(0, 1).round(4)
    return Box(*share.min(axis=0).tolist(), *share.max(axis=0).tolist())


def _edges(box: Box) -> list[float]:
    return [box.x0, box.y0, box.x1, box.y1]
