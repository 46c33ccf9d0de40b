"""Clips with captions: MSR-VTT, VATEX and ActivityNet Captions, and the base class of all video datasets."""

from abc import abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from openpali.data.files.annotations import BadValue, read_json
from openpali.data.images.video import BadVideo, FrameSampling, frame_rate, read_clip
from openpali.data.records import BadRecord
from openpali.data.sources.public.base import PublicSource, field
from openpali.data.sources.public.captions import captions_by, checked_texts, entry_name, with_captions

VIDEOS = (".mp4", ".avi", ".mkv", ".webm", ".mov")


class PublicClips(PublicSource):
    """Clips of a dataset, decoded on access; `images` of a record are its frames.

    A clip is a video file or a folder of images, in one of the folders `clips` of `image_root` or in `image_root`.
    Many clips of these datasets are no longer on the web: entries without a clip are left out and counted. The frames
    are `stride` frames of the file apart, from the first one; PaliGemma's training starts at a random frame.
    """

    clips: ClassVar[tuple[str, ...]] = ("videos",)

    def __init__(
        self,
        path: str | Path | None = None,
        split: str = "train",
        image_root: str | Path | None = None,
        num_frames: int = 16,
        stride: int | None = None,
        decode_size: int | None = None,
    ) -> None:
        """Read and check a split.

        Args:
            path: folder of the annotations, see `layout`.
            split: `train`, `validation` or `test`, or the dataset's own name.
            image_root: folder of the clips' folders, which they may not leave; by default `path`.
            num_frames: of every clip; a short clip repeats its last one.
            stride: frames of the file between frames; by default they are spread over the whole clip.
            decode_size: side in pixels of the model's images; larger frames are shrunk while decoding.

        Raises:
            MissingData: no path, or a file is missing; the message has download instructions.
            ValueError: an option is invalid, or there is no such split.
            BadRecord: no entry is good, or more than a tenth of 100 or more are bad.
        """
        FrameSampling(num_frames, stride)
        self.num_frames, self.stride, self.decode_size = num_frames, stride, decode_size
        self._found: dict[str, str] | None = None
        super().__init__(path, split, image_root)

    @abstractmethod
    def clip_row(self, entry: Any) -> dict[str, Any]:
        """`clip` (name without ending), optional `span` (seconds), and the record's fields. Raises BadValue."""

    def row(self, entry: Any) -> dict[str, Any] | None:
        """The row of an entry; None when its clip is missing."""
        row = self.clip_row(entry)
        clip = self._places().get(row.pop("clip"))
        if clip is None:
            self.leave_out(f"their clips are not in {self.image_root}")
            return None
        return row | {"images": [clip]}

    def load_images(self, row: dict[str, Any]) -> list[Any]:
        """The frames of a clip. Raises BadValue."""
        path = (self.image_root / row["images"][0]).resolve()
        if not path.is_relative_to(self.image_root.resolve()):
            raise BadValue(f"{path} is a link out of {self.image_root}", "Move the clip there.")
        try:
            # images of a folder have no times: a stride counts them
            rate = 1.0 if self.stride is None or path.is_dir() else frame_rate(path)
            sampling = FrameSampling(self.num_frames, None if self.stride is None else self.stride / rate)
            start, end = row.get("span") or (0.0, None)
            return read_clip(path, sampling, start, end, None, self.decode_size)
        except BadVideo as error:
            raise BadValue(str(error)) from error

    def record(self, row: dict[str, Any], images: list[Any]) -> dict[str, Any]:
        """The fields of a row, and `images`, always a list."""
        return {key: value for key, value in row.items() if key not in ("images", "span")} | {"images": images}

    def _places(self) -> dict[str, str]:
        """Names of clips without endings to paths in `image_root`; folders are listed once."""
        if self._found is None:
            self._found = {}
            for folder in (*self.clips, "."):
                for item in sorted((self.image_root / folder).glob("*")):
                    if item.suffix.lower() in VIDEOS or (item.is_dir() and folder != "."):
                        name = item.name if item.is_dir() else item.stem
                        self._found.setdefault(name, f"{folder}/{item.name}")
        return self._found


class MsrVtt(PublicClips):
    """MSR-VTT captions (Xu et al. 2016), 20 for each clip; 6,513, 497 and 2,990 clips in the three splits."""

    name = "msrvtt_cap"
    title = "MSR-VTT"
    address = "https://www.microsoft.com/en-us/research/publication/msr-vtt-a-large-video-description-dataset/"
    layout = (
        "train_val_videodatainfo.json",
        "test_videodatainfo.json",
        "TrainValVideo/video0.mp4 ...",
        "TestVideo/...",
    )
    splits = {"train": "train", "validation": "validate", "test": "test"}
    clips = ("TrainValVideo", "TestVideo", "videos")

    def entries(self, split: str) -> Iterable[tuple[str, Any]]:
        """Clips with their sentences, from one file."""
        file = "test_videodatainfo.json" if split == "test" else "train_val_videodatainfo.json"
        texts = captions_by("video_id", self.read_list(file, key="sentences"))
        for number, video in enumerate(self.read_list(file, key="videos")):
            if not isinstance(video, dict) or video.get("split") == split:
                yield entry_name(video, number, "video_id"), with_captions(video, "video_id", texts)

    def clip_row(self, entry: Any) -> dict[str, Any]:
        """The clip is a whole file: `start time` and `end time` refer to the film that it was cut from."""
        return {"clip": field(entry, "video_id"), "captions": {"en": checked_texts(entry["captions"])}}


class Vatex(PublicClips):
    """VATEX (Wang et al. 2019), its English captions: 25,991 clips for training, ten texts each.

    Scores are published on the public test split.
    """

    name = "vatex_cap"
    title = "VATEX"
    address = "https://eric-xw.github.io/vatex-website/download.html"
    layout = (
        "vatex_training_v1.0.json",
        "vatex_validation_v1.0.json",
        "vatex_public_test_english_v1.1.json",
        "videos/Ptf_2VRj-V0_000122_000132.mp4 ...",
    )
    splits = {"train": "training_v1.0", "validation": "validation_v1.0", "test": "public_test_english_v1.1"}

    def entries(self, split: str) -> Iterable[tuple[str, Any]]:
        """The clips of a split's file."""
        for number, entry in enumerate(self.read_list(f"vatex_{split}.json")):
            yield entry_name(entry, number, "videoID"), entry

    def clip_row(self, entry: Any) -> dict[str, Any]:
        """English captions; those in Chinese are left out."""
        return {"clip": field(entry, "videoID"), "captions": {"en": checked_texts(field(entry, "enCap", list))}}


class ActivityNetCaptions(PublicClips):
    """ActivityNet Captions (Krishna et al. 2017): spans of long films with a sentence each, one in each record.

    The test captions are not public; as for PaliGemma, `test` is val_2.
    """

    name = "activitynet_cap"
    title = "ActivityNet Captions"
    address = "https://cs.stanford.edu/people/ranjaykrishna/densevid/ and http://activity-net.org/download.html"
    layout = ("train.json", "val_1.json", "val_2.json", "videos/v_QOlSCBRmfWY.mp4 ...")
    splits = {"train": "train", "validation": "val_1", "test": "val_2"}

    def entries(self, split: str) -> Iterable[tuple[str, Any]]:
        """A span of a film, and its sentence."""
        path = self.find(f"{split}.json")
        content = read_json(path)
        if not isinstance(content, dict):
            raise BadRecord(str(path), "all", "it is not a JSON object of films", "Download the file again.")
        for name, film in content.items():
            film = film if isinstance(film, dict) else {}
            spans, sentences = film.get("timestamps") or [None], film.get("sentences") or [None]
            for number, (span, sentence) in enumerate(zip(spans, sentences)):
                yield f"{name}-{number}", {"name": name, "span": span, "sentence": sentence}

    def clip_row(self, entry: Any) -> dict[str, Any]:
        """The sentence, and its span in seconds."""
        captions = {"en": checked_texts(entry["sentence"])}
        return {"clip": entry["name"], "captions": captions, "span": checked_span(entry["span"])}


def checked_span(value: Any) -> list[float]:
    """Start and end in seconds. Raises BadValue."""
    try:
        start, end = (float(second) for second in value)
        if not 0 <= start < end < float("inf"):
            raise ValueError
    except (TypeError, ValueError, OverflowError) as error:
        raise BadValue(f"its span {value} is not a start and a later end in seconds", "Remove it.") from error
    return [start, end]
