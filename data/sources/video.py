"""Clips with texts: a line `{"video": "dog.mp4", "prefix": "what does it do?", "suffix": "it runs"}` for each clip."""

import math
from pathlib import Path
from typing import Any

from openpali.data.images.open_image import BadImage
from openpali.data.images.video import BadVideo, FrameSampling, read_clip
from openpali.data.sources.jsonl import JsonlSource


class VideoSource(JsonlSource):
    """Records of a JSON-lines file about clips, whose frames are decoded on access.

    A clip is a video file or a folder of images (`openpali.data.images.video`). At the start every line is checked,
    that every clip exists, and that a frame of the first ones can be decoded.
    """

    name = "video"
    known = ("video", "prefix", "suffix", "captions", "references", "start", "end", "id")
    medium = "clip"

    def __init__(
        self,
        path: str | Path,
        image_root: str | Path | None = None,
        num_frames: int = 16,
        stride: float | None = None,
        frame_rate: float | None = None,
        check_decode: int = 100,
        decode_size: int | None = None,
    ) -> None:
        """Check and index a file.

        Args:
            path: the file. Each line has `video` (path of a file or folder), `prefix` and `suffix` or instead of them
                `captions` ({language: text or texts}), `references` where there are several correct answers, and
                `start` and `end` in seconds for a span of the file.
            image_root: folder that clips are in and may not leave; by default that of the file.
            num_frames: of every clip; a short clip repeats frames.
            stride: seconds between frames; by default they are spread over the whole clip.
            frame_rate: images per second of clips that are folders; 1 by default.
            check_decode: number of clips of which a frame is decoded as a check.
            decode_size: side in pixels of the model's images; larger frames are shrunk while decoding.

        Raises:
            BadRecord: the file is missing, no record is good, or more than a tenth of 100 or more are bad.
            ImportError: a clip is a file, and PyAV is not installed.
            ValueError: an option is invalid.
        """
        self.sampling = FrameSampling(num_frames, stride)
        if frame_rate is not None and not (math.isfinite(frame_rate) and frame_rate > 0):
            raise ValueError(f"frame_rate is a number of images per second, not {frame_rate}")
        self.frame_rate = frame_rate
        super().__init__(path, image_root, check_decode, decode_size)

    def _images(self, record: dict[str, Any], number: int) -> dict[str, Any]:
        captions = {"captions": record["captions"]} if "captions" in record else {}
        return {"images": self._frames(record, number, self.sampling)} | captions

    def _check_images(
        self, record: dict[str, Any], number: int, seen: dict[Path, BadImage | None], decode: bool
    ) -> None:
        path = self._clip(record, number)
        if not path.exists():
            raise self._bad(number, f"{path} does not exist", "Check the path and image_root.")
        if decode:
            self._frames(record, number, FrameSampling(1))

    def _frames(self, record: dict[str, Any], number: int, sampling: FrameSampling) -> list[Any]:
        span = record.get("start") or 0.0, record.get("end")
        try:
            return read_clip(self._clip(record, number), sampling, *span, self.frame_rate, self.decode_size)
        except BadVideo as error:
            raise self._bad(number, str(error)) from error

    def _clip(self, record: dict[str, Any], number: int) -> Path:
        name = record.get("video")
        if not isinstance(name, str) or not name:
            raise self._bad(number, '"video" is missing or not a path', 'Give "video" as a path.')
        return self._inside(name, number)

    def _needed(self, record: dict[str, Any]) -> tuple[str, ...]:
        return ("prefix", "suffix") if "captions" not in record or "prefix" in record else ()

    def _checked(self, record: dict[str, Any], number: int) -> dict[str, Any]:
        record = super()._checked(record, number)
        for key in ("start", "end"):
            value = record.get(key)
            if value is not None and not _is_time(value):
                raise self._bad(number, f'"{key}" is {value!r}', f'Give "{key}" in seconds, from 0 up.')
        if record.get("end") is not None and record["end"] <= (record.get("start") or 0):
            raise self._bad(number, '"end" is not after "start"', "Fix them.")
        if "captions" in record and not _are_captions(record["captions"]):
            remedy = 'Write {"en": "a dog runs"}, or a list of texts in place of one.'
            raise self._bad(number, '"captions" are not texts by language', remedy)
        return record


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _are_captions(value: Any) -> bool:
    if not isinstance(value, dict) or not value:
        return False
    texts = [text for own in value.values() for text in (own if isinstance(own, list) else [own])]
    return bool(texts) and all(isinstance(text, str) and text for text in texts)
