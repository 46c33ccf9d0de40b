"""Frames of a clip: a video file, or a folder of images in the order of their names.

For the models each frame is an image, and a clip is up to 16 images, as in the video fine-tuning of PaLI-3 and
PaliGemma. Video files need PyAV: `pip install "openpali[video]"`.
"""

import contextlib
import math
import os
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from openpali.data.images.open_image import DRAFT_MARGIN, MIN_SIDE, BadImage, load_image
from openpali.data.records import MAX_PIXELS

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
MAX_FRAMES = 256

# containers with their own frames; playlists could open other files and addresses
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,gif,flv,asf,ogg"
_JUMP = 2.0  # seconds that cost about as much to decode as a seek, for files without an index
_SLACK = 1.0  # seconds by which a header may overstate the length


class BadVideo(ValueError):
    """A clip that cannot be used. The message has the reason and the remedy."""


@dataclass(frozen=True)
class FrameSampling:
    """The times at which frames are taken.

    Attributes:
        num_frames: of every clip; a short clip repeats frames.
        stride: seconds between frames, from the start of the clip; the last frame of a short clip repeats. None
            spreads the frames over the whole clip: the middles of `num_frames` equal intervals.
    """

    num_frames: int = 16
    stride: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.num_frames <= MAX_FRAMES:
            raise ValueError(f"num_frames is from 1 to {MAX_FRAMES}, not {self.num_frames}")
        if self.stride is not None and not (math.isfinite(self.stride) and self.stride > 0):
            raise ValueError(f"stride is a number of seconds above 0, not {self.stride}")

    def times(self, start: float, end: float) -> list[float]:
        """Times of the frames in seconds, increasing, in [start, end)."""
        if self.stride is None:
            step = (end - start) / self.num_frames
            return [start + (number + 0.5) * step for number in range(self.num_frames)]
        last = max(math.ceil((end - start) / self.stride - 1e-9) - 1, 0)
        return [start + min(number, last) * self.stride for number in range(self.num_frames)]


def read_clip(
    path: str | Path,
    sampling: FrameSampling = FrameSampling(),
    start: float = 0.0,
    end: float | None = None,
    frame_rate: float | None = None,
    decode_size: int | None = None,
) -> list[Image.Image]:
    """The sampled frames of a clip, as upright RGB.

    A file is not decoded as a whole: between distant frames it seeks to the nearest key frame.

    Args:
        path: a video file, or a folder of images.
        sampling: the times of the frames.
        start: of the clip, in seconds of the file.
        end: of the clip; by default that of the file.
        frame_rate: images per second of a folder. Without it, `start`, `end` and the stride count images.
        decode_size: side in pixels to which frames will be resized; larger ones are shrunk by an integer factor, with
            a margin (`openpali.data.images.open_image.load_image`). 16 frames of a 4K film take 400 MB otherwise.

    Raises:
        BadVideo: missing, unreadable, truncated, of unusable size, or shorter than `start`.
        ImportError: PyAV is not installed.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path, sampling, start, end, frame_rate or 1.0, decode_size)
    if not path.is_file():
        raise BadVideo(f"{path} does not exist. Check the path and the folder that it is relative to.")
    try:
        from av.error import FFmpegError
    except ImportError as error:
        raise ImportError('reading video files needs PyAV: pip install "openpali[video]"') from error
    try:
        with _opened(path) as container:
            return _read_stream(container, path, sampling, start, end, decode_size)
    except FFmpegError as error:
        reason = f"{path} cannot be decoded ({error.strerror}). Play it to see whether it is whole, or convert it."
        raise BadVideo(reason) from error


def frame_rate(path: str | Path) -> float:
    """Average frames per second of a video file. Raises BadVideo when it has no video, ImportError without PyAV."""
    if not Path(path).is_file():
        raise BadVideo(f"{path} does not exist. Check the path and the folder that it is relative to.")
    try:
        from av.error import FFmpegError
    except ImportError as error:
        raise ImportError('reading video files needs PyAV: pip install "openpali[video]"') from error
    try:
        with _opened(Path(path)) as container:
            rate = container.streams.video[0].average_rate if container.streams.video else None
    except FFmpegError as error:
        reason = f"{path} cannot be opened ({error.strerror}). Play it to see whether it is whole, or convert it."
        raise BadVideo(reason) from error
    if not rate:
        raise BadVideo(f"{path} does not declare its frame rate. Convert it.")
    return float(rate)


def _opened(path: Path) -> "InputContainer":
    import av

    options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
    return av.open(str(path), "r", options=options, metadata_errors="ignore")


def _read_stream(
    container: "InputContainer",
    path: Path,
    sampling: FrameSampling,
    start: float,
    end: float | None,
    decode_size: int | None,
) -> list[Image.Image]:
    if not container.streams.video:
        raise BadVideo(f"{path} holds no video. Give a file with images in it.")
    stream = container.streams.video[0]
    # one thread: loader workers use the other cores
    stream.thread_count = 1
    _check_size(stream.width, stream.height, path)
    times = sampling.times(*_range(start, end, _length(container, stream), path))
    reader = _Reader(container, stream, path)
    images: list[Image.Image] = []
    shown = None
    for time in times:
        frame = reader.frame_at(time)
        images.append(images[-1] if frame is shown else _to_image(frame, decode_size, path))
        shown = frame
    return images


def _range(start: float, end: float | None, length: float, path: Path) -> tuple[float, float]:
    """Start and end of a clip within a file of some length. Raises BadVideo for an empty clip."""
    last = length if end is None else min(end, length)
    if not 0 <= start < last:
        span = f"{start:g}" + ("" if end is None else f" to {end:g}")
        raise BadVideo(f"{path} is {length:g} long, which leaves nothing of {span}. Fix start and end.")
    return start, last


def _length(container: "InputContainer", stream: "VideoStream") -> float:
    """Seconds from the first frame to the end, by the header, else by reading all packets without decoding."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    if container.duration:
        return container.duration / 1_000_000
    ends = [float((p.pts + (p.duration or 1)) * p.time_base) for p in container.demux(stream) if p.pts is not None]
    container.seek(0)
    return max(ends, default=0.0) - _origin(stream)


def _origin(stream: "VideoStream") -> float:
    return float((stream.start_time or 0) * (stream.time_base or 0))


class _Reader:
    """The frames of a stream at increasing times."""

    def __init__(self, container: "InputContainer", stream: "VideoStream", path: Path) -> None:
        self.container, self.stream, self.path = container, stream, path
        self.tick = float(stream.time_base or 1)
        self._restart()

    def frame_at(self, time: float) -> "VideoFrame":
        """The frame shown at a time in seconds; after the end the last one."""
        target = math.floor((time + _origin(self.stream)) / self.tick + 1e-6)
        if self._is_worth_a_jump(target):
            from av.error import FFmpegError

            # a file that cannot seek is decoded from the current position
            with contextlib.suppress(FFmpegError):
                self.container.seek(target, stream=self.stream)
                self._restart()
        while self.following is not None and (self.shown is None or _moment(self.following) <= target):
            self.shown, self.following = self.following, next(self.frames, None)
        self._check(time, target)
        assert self.shown is not None
        return self.shown

    def _restart(self) -> None:
        self.frames = decoded(self.container, self.stream)
        self.shown: VideoFrame | None = None
        self.following: VideoFrame | None = next(self.frames, None)

    def _is_worth_a_jump(self, target: int) -> bool:
        """Whether a key frame lies between the current frame and the target."""
        if self.following is None:
            return False
        here, index = _moment(self.following), self.stream.index_entries
        entry = index.search_timestamp(target) if len(index) else -1
        if entry >= 0 and index[entry].timestamp > here:
            return True
        covered = len(index) > 0 and index[len(index) - 1].timestamp >= target
        return not covered and (target - here) * self.tick > _JUMP

    def _check(self, time: float, target: int) -> None:
        if self.shown is None:
            raise BadVideo(f"{self.path} holds no frame that can be decoded. Copy or convert it again.")
        missing = (target - _moment(self.shown)) * self.tick - float(self.shown.duration or 0) * self.tick
        if self.following is None and self.stream.duration and missing > _SLACK:
            raise BadVideo(
                f"{self.path} is truncated: it ends before second {time:.2f}. Copy it again from its origin."
            )
        if self.shown.is_corrupt:
            raise BadVideo(f"{self.path} has a damaged frame at second {time:.2f}. Copy or convert it again.")


def decoded(container: "InputContainer", stream: "VideoStream") -> "Iterator[VideoFrame]":
    """The frames of a stream from the container's position, in display order."""
    yield from container.decode(stream)


def _moment(frame: "VideoFrame") -> int:
    """The time of a frame in ticks of its stream."""
    return frame.pts if frame.pts is not None else frame.dts or 0


def _to_image(frame: "VideoFrame", decode_size: int | None, path: Path) -> Image.Image:
    # a stream may change its size
    _check_size(frame.width, frame.height, path)
    factor = max(1, min(frame.width, frame.height) // (DRAFT_MARGIN * decode_size)) if decode_size else 1
    options: Any = {"interpolation": "AREA"} if factor > 1 else {}
    image = frame.to_image(width=frame.width // factor, height=frame.height // factor, **options)
    return image.rotate(frame.rotation, expand=True) if frame.rotation else image


def _check_size(width: int, height: int, path: Path) -> None:
    if min(width, height) < MIN_SIDE or width * height > MAX_PIXELS:
        raise BadVideo(
            f"{path} has frames of {width}x{height} pixels. Each side needs {MIN_SIDE}, and both together at most"
            f" {MAX_PIXELS:,}. Convert it."
        )


def _read_folder(
    folder: Path, sampling: FrameSampling, start: float, end: float | None, rate: float, decode_size: int | None
) -> list[Image.Image]:
    names = sorted((n for n in os.listdir(folder) if n.lower().endswith(IMAGES)), key=_natural)
    if not names:
        raise BadVideo(f"{folder} holds no images. Frames are files such as 0001.jpg, in the order of their names.")
    starts = [number / rate for number in range(len(names))]
    times = sampling.times(*_range(start, end, len(names) / rate, folder))
    chosen = [names[bisect_right(starts, time + 1e-9) - 1] for time in times]
    root, images = folder.resolve(), {}
    for name in dict.fromkeys(chosen):
        if (folder / name).resolve().parent != root:
            raise BadVideo(f"{folder / name} is a link out of its folder. Copy the image there.")
        try:
            images[name] = load_image(folder / name, decode_size)
        except BadImage as error:
            raise BadVideo(str(error)) from error
    return [images[name] for name in chosen]


def _natural(name: str) -> list[Any]:
    """A sort key that puts frame10 after frame9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", name)]
