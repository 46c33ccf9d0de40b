"""Words on an image by RapidOCR, with the models that its package brings; nothing is ever downloaded.

They read Chinese, Japanese, and most languages in Latin letters; no Cyrillic, Greek, Arabic, Hebrew, Korean or Thai.
"""

import functools
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from openpali.modeling.user_errors import UserError

DETECTOR, RECOGNISER = "PP-OCRv6_det_small.onnx", "PP-OCRv6_rec_small.onnx"
SIDES = (320, 512)
"""Shorter sides at which an image is read; a larger image is read at its own size instead of the second.

Small letters are missed at the first, letters that fill the image at the second, and some of any size at either.
"""
_LONGEST, _LEAST = 2000, 32
_SAME = 0.5
# letters of scripts that are written without spaces begin here
_FIRST_UNSPACED = 0x2E80

Reading = tuple[str, np.ndarray, float]
"""A text, the corners around it, float[N, 2] in pixels, and its score."""


def model_name() -> str:
    """Name and version of the models."""
    return f"RapidOCR {version('rapidocr')} PP-OCRv6 small"


@functools.cache
def _engine(threads: int, gpu: bool) -> Any:
    """The models, loaded once in each process. Raises UserError where the package has not brought them."""
    import cv2
    import rapidocr

    # by their paths: by name it would download what is missing
    models = Path(rapidocr.__file__).parent / "models"
    for name in (DETECTOR, RECOGNISER):
        if not (models / name).is_file():
            raise UserError(f"RapidOCR {version('rapidocr')} comes without {name}: pip install 'rapidocr>=3.10,<3.11'")
    cv2.setNumThreads(threads)
    options = {"intra_op_num_threads": threads, "inter_op_num_threads": 1, "use_cuda": gpu}
    params = {f"EngineConfig.onnxruntime.{key}": value for key, value in options.items()}
    params |= {"Det.model_path": str(models / DETECTOR), "Rec.model_path": str(models / RECOGNISER)}
    params |= {"Global.use_cls": False, "Global.return_word_box": True, "Global.text_score": 0.0}
    # images are resized here: it fails on long ones, and would enlarge them for its detector alone
    params |= {"Global.use_preprocess_img": False, "Det.limit_side_len": _LEAST, "Global.log_level": "critical"}
    return rapidocr.RapidOCR(params=params)


def read_words(image: Image.Image, threads: int = 1, gpu: bool = False) -> list[Reading]:
    """The words on an image, which is read at two sizes; of two readings of a place the surer one stays.

    Args:
        image: RGB.
        threads: on the CPU.
        gpu: use one, where onnxruntime can.
    """
    engine = _engine(threads, gpu)
    found = [reading for scale in _scales(image.size) for reading in _read_at(engine, image, scale)]
    kept: list[Reading] = []
    for reading in sorted(found, key=lambda reading: -reading[2]):
        if all(_overlap(reading[1], other[1]) < _SAME for other in kept):
            kept.append(reading)
    return kept


def _scales(size: tuple[int, int]) -> list[float]:
    """The factors by which an image of a width and height is resized; no side is longer than `_LONGEST` then."""
    small, large = (side / min(size) for side in SIDES)
    most = _LONGEST / max(size)
    scales = {min(small, most), min(max(large, 1.0), most)}
    # a line of pixels has no words, and would be enlarged beyond the memory
    return sorted(scale for scale in scales if scale * min(size) >= _LEAST / 2)


def _read_at(engine: Any, image: Image.Image, scale: float) -> Iterator[Reading]:
    if scale != 1:
        size = round(image.width * scale), round(image.height * scale)
        image = image.resize(size, Image.Resampling.BICUBIC)
    # it takes the colours of OpenCV
    result = engine(np.ascontiguousarray(np.asarray(image)[:, :, ::-1]))
    if result.txts is None:
        return
    pieces = result.word_results if len(result.word_results) == len(result.txts) else [()] * len(result.txts)
    for text, box, score, own in zip(result.txts, result.boxes, result.scores, pieces, strict=True):
        for word, corners in words_of_line(text, np.asarray(box, float), own):
            yield word, corners / scale, float(score)


def words_of_line(text: str, box: np.ndarray, pieces: Any) -> list[tuple[str, np.ndarray]]:
    """The words of a line.

    RapidOCR gives words of a line in Latin letters, which it also parts where there is a gap without a space, and the
    single letters of every other line.

    Args:
        text: of the line.
        box: float[4, 2], its corners.
        pieces: texts, scores and corners of its parts, without spaces.

    Returns:
        Words and their corners, float[N, 2]; the whole line where its parts are not known.
    """
    parts = [(piece, np.asarray(corners, float)) for piece, _, corners in pieces]
    words = text.split()
    if len(words) == 1 == len(parts) or "".join(piece for piece, _ in parts) != "".join(words):
        return [(" ".join(words), box)]
    ends = set(np.cumsum([len(word) for word in words]).tolist())
    found: list[tuple[str, np.ndarray]] = []
    at, before = 0, ""
    for piece, corners in parts:
        if found and at not in ends and not _gap(before, piece):
            found[-1] = (found[-1][0] + piece, np.concatenate([found[-1][1], corners]))
        else:
            found.append((piece, corners))
        at, before = at + len(piece), piece
    return found if len(found) > 1 else [(found[0][0], box)]


def _gap(before: str, after: str) -> bool:
    """Whether two parts without a space between them are words: in Latin letters, and not both single letters."""
    latin = ord(before[-1]) < _FIRST_UNSPACED and ord(after[0]) < _FIRST_UNSPACED
    return latin and len(before) + len(after) > 2


def _overlap(first: np.ndarray, second: np.ndarray) -> float:
    """The share of the smaller of two boxes around corners that lies in the other one."""
    low = np.maximum(first.min(axis=0), second.min(axis=0))
    high = np.minimum(first.max(axis=0), second.max(axis=0))
    areas = [float(np.prod(np.ptp(corners, axis=0))) for corners in (first, second)]
    return float(np.prod(np.maximum(high - low, 0))) / max(min(areas), 1e-6)
