"""Captions in many languages: COCO-35L (COCO translated) and Crossmodal-3600 (for evaluation)."""

import re
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from openpali.data.files.annotations import BadValue
from openpali.data.files.dataset_files import json_line, json_lines
from openpali.data.sources import several
from openpali.data.sources.public.base import PublicSource, field, held_out
from openpali.data.sources.public.captions import checked_texts

_CODES = "ar bn cs da de el en es fa fi fil fr he hi hr hu id it ja ko mi nl no pl pt ro ru sv sw te th tr uk vi zh"
COCO_LANGUAGES = tuple(_CODES.split())
XM_LANGUAGES = tuple(sorted((*COCO_LANGUAGES, "quz")))

_IMAGE_ID = re.compile(rb'"image_id": ?"?([0-9]+)')


class Coco35L(PublicSource):
    """COCO's captions with their machine translations into 34 languages (Thapliyal et al. 2022).

    A record is an image with its captions in all languages, so that a task samples languages uniformly. The 20 million
    lines stay on disk; only their offsets are in memory. The dev split is `test`, and one image in twenty of the train
    split is in `validation`.
    """

    name = "coco35l"
    title = "COCO-35L"
    address = (
        "https://google.github.io/crossmodal-3600/ (coco_mt_train.jsonl.bz2 and coco_mt_dev.jsonl.bz2; unpack them by"
        " bunzip2), dataset_coco.json and the images of COCO 2014 as for cococap"
    )
    layout = ("coco_mt_train.jsonl", "coco_mt_dev.jsonl", "dataset_coco.json", "train2014/...", "val2014/...")
    splits = {"train": "train", "validation": "held_out", "test": "dev"}

    def __init__(
        self, path: str | Path | None = None, split: str = "train", image_root: str | Path | None = None
    ) -> None:
        """Read and check a split; see `PublicSource`."""
        super().__init__(path, split, image_root)

    def entries(self, split: str) -> Iterable[tuple[str, Any]]:
        """COCO's number of each image, and the offsets of its lines."""
        self._file = self.find("coco_mt_dev.jsonl" if split == "dev" else "coco_mt_train.jsonl")
        self._places = self._read_places()
        for number, starts in line_starts(self._file).items():
            if split == "dev" or held_out(str(number)) == (split == "held_out"):
                yield str(number), (number, starts)

    def row(self, entry: Any) -> dict[str, Any] | None:
        """The image, and the offsets of its lines."""
        number, starts = entry
        if number not in self._places:
            raise BadValue(f"dataset_coco.json has no image of cocoid {number}", "Give the whole file.")
        return {"images": [self.image(self._places[number])], "lines": starts.tolist()}

    def record(self, row: dict[str, Any], images: list[Any]) -> dict[str, Any]:
        """`image` and `captions`, by language."""
        return {"image": images[0], "captions": self._captions(row["lines"])}

    def _captions(self, starts: list[int]) -> dict[str, list[str]]:
        found: dict[str, dict[str, None]] = {}
        with self._file.open("rb") as file:
            for start in starts:
                file.seek(start)
                line = json_line(file.readline())
                # the line of each translation repeats the English original
                for language, text in (
                    ("en", field(line, "caption_tokenized")),
                    (field(line, "trg_lang"), field(line, "translation_tokenized")),
                ):
                    if language in COCO_LANGUAGES and text.strip():
                        found.setdefault(language, {})[text.strip()] = None
        if not found:
            raise BadValue("it has no caption", "Download the file again.")
        return {language: list(texts) for language, texts in found.items()}

    def _read_places(self) -> dict[int, str]:
        """COCO's number of each image to its path."""
        images = self.read_list("dataset_coco.json", key="images")
        try:
            return {image["cocoid"]: f"{image['filepath']}/{image['filename']}" for image in images}
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{self.path}/dataset_coco.json is another file ({error!r}). {self.help('it')}"
            ) from error


class Crossmodal3600(PublicSource):
    """Crossmodal-3600 (Thapliyal et al. 2022): captions written in 36 languages, for evaluation only.

    3,600 images; a record is an image with its captions in one language, since scores are by language. With `by_image`
    it is an image with its captions in all languages, for retrieval: every image is encoded once.
    """

    name = "xm3600"
    title = "Crossmodal-3600"
    address = "https://google.github.io/crossmodal-3600/ (captions.zip and images.tgz)"
    layout = ("captions.jsonl", "images/000411001ff7dd4f.jpg ...")
    splits = {"validation": "test", "test": "test"}

    def __init__(
        self,
        path: str | Path | None = None,
        split: str = "test",
        image_root: str | Path | None = None,
        languages: Sequence[str] | str = XM_LANGUAGES,
        by_image: bool = False,
    ) -> None:
        """Read and check the file; see `PublicSource`.

        Args:
            path: folder of `captions.jsonl`.
            split: `test`, the only one.
            image_root: folder of `images`; by default `path`.
            languages: codes of the languages, all 36 by default.
            by_image: a record for each image.

        Raises:
            ValueError: an unknown language; see also `PublicSource`.
        """
        self.languages = several(languages)
        if unknown := sorted(set(self.languages) - set(XM_LANGUAGES)):
            raise ValueError(f"languages: there is no {unknown[0]!r}; there are {', '.join(XM_LANGUAGES)}")
        self.by_image = by_image
        super().__init__(path, split, image_root)

    def entries(self, split: str) -> Iterable[tuple[str, Any]]:
        """Each line in all languages in turn, so that a limit on records covers all languages."""
        for number, line in json_lines(self.find("captions.jsonl")):
            try:
                content = json_line(line)
            except BadValue:
                content = None
            if self.by_image:
                there = content if isinstance(content, dict) else {}
                yield str(number), (content, [language for language in self.languages if language in there])
            for language in () if self.by_image else self.languages:
                yield f"{number}-{language}", (content, [language])

    def row(self, entry: Any) -> dict[str, Any] | None:
        """The captions of one language, or of all that the image has."""
        content, languages = entry
        image = self.image(f"images/{field(content, 'image/key')}.jpg", f"{content['image/key']}.jpg")
        if not languages:
            raise BadValue("it has no captions in these languages", "Give other languages.")
        texts = {one: checked_texts(field(field(content, one, dict), "caption", list)) for one in languages}
        return {"captions": texts, "images": [image]}


def line_starts(path: Path) -> dict[int, "array[int]"]:
    """COCO's number of each image to the byte offsets of its lines; the lines are not parsed."""
    found: dict[int, array[int]] = {}
    start = 0
    with path.open("rb") as file:
        for line in file:
            match = _IMAGE_ID.search(line)
            if match:
                found.setdefault(int(match[1]), array("q")).append(start)
            start += len(line)
    return found
