"""Tar shards in the WebDataset layout: `000017.jpg`, `000017.txt` and `000017.json` are one record.

They are read sequentially, locally or through fsspec (`https://`, `s3://`, `gs://`), for streams of training examples
(`openpali.data.streaming.stream`). Some of the first records are held out for validation.
"""

import itertools
import json
from collections.abc import Iterator
from typing import Any

from openpali.data.example import Box
from openpali.data.files.shard_files import find_shards
from openpali.data.files.tar_shards import START, Place, Sample, read_samples
from openpali.data.images.open_image import BadImage, load_image
from openpali.data.records import BadRecord

IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff")
TEXTS = ("captions", "keywords", "objects", "prefix", "suffix", "concept")
_OURS = ("id", "image", "images")


class WebDataset:
    """Records of tar shards: `id` (shard and key), `image` or `images`, `captions`, and the other keys of the JSON.

    A sample holds an image (jpg, png, webp, ...; several ones as `x.0.jpg`, `x.1.jpg`), and text: `txt` is a caption
    in `language`; `json` is an object with keys of the record: `captions` ({language: text or texts}, or texts in
    `language`; also `caption` and `text`), `keywords`, `objects`, `prefix`, `suffix`, ...

    Attributes:
        urls: addresses of the shards.
        names: of the shards, unique.
        reserved: number of a shard to the number of its first samples that are held out.
    """

    name = "webdataset"

    def __init__(
        self,
        path: str | list[str],
        language: str = "en",
        validation_path: str | list[str] | None = None,
        validation_size: int = 256,
        length: int | None = None,
        open_shards: int = 4,
        shuffle: int = 512,
    ) -> None:
        """Find the shards; none is opened yet.

        Args:
            path: a folder, a pattern such as `train-{000..099}.tar`, or a list of these.
            language: of `txt` files and of captions without one.
            validation_path: shards for validation; by default the first records of `path` are held out.
            validation_size: maximum of records for validation.
            length: total number of records, if known; it defines an epoch.
            open_shards: shards that a loader worker reads in turn, so that neighbouring samples differ.
            shuffle: undecoded samples in the shuffle buffer of a loader worker. More need more memory.

        Raises:
            ValueError: there are no shards, or an option is invalid.
        """
        if min(validation_size, open_shards, shuffle) < 1:
            raise ValueError("validation_size, open_shards and shuffle are at least 1")
        self.urls, self.names = find_shards(path)
        self.language, self.length = language, length
        self.validation_path, self.validation_size = validation_path, validation_size
        self.open_shards, self.shuffle = open_shards, shuffle
        self.reserved: dict[int, int] = {}

    def __len__(self) -> int:
        raise self._not_indexed()

    def __getitem__(self, index: int) -> dict[str, Any]:
        raise self._not_indexed()

    def _not_indexed(self) -> BadRecord:
        remedy = "Use a recipe that takes streams, or write the records as a JSONL file."
        return BadRecord(self.name, "all", "tar shards are iterable-style: their records have no index", remedy)

    def samples(self, shard: int, start: Place = START, part: int = 0, parts: int = 1) -> Iterator[Sample]:
        """Samples of one shard for training, undecoded.

        Args:
            shard: its number.
            start: where to begin, the `after` of a sample.
            part: remainder of the sample numbers to read, modulo `parts`.
            parts: number of workers that share the shard.
        """
        first = self.reserved.get(shard, 0)
        wanted = (lambda number: number >= first and number % parts == part) if first or parts > 1 else None
        options = {"wanted": wanted} if wanted else {}
        return read_samples(self.urls[shard], self.names[shard], start, **options)

    def record(self, sample: Sample) -> dict[str, Any]:
        """Decode a sample.

        Raises:
            BadRecord: it cannot be used.
        """
        return record_of(sample, self.language)

    def records(self) -> Iterator[dict[str, Any]]:
        """All usable training records once, shard after shard."""
        for shard in range(len(self.urls)):
            for sample in self.samples(shard):
                try:
                    yield self.record(sample)
                except BadRecord:
                    continue

    def set_aside(self) -> "HeldOut":
        """Hold out records for validation, undecoded in memory; those of `path` are no longer used for training.

        They are the first samples of the first shards: of at most a fifth of the shards or, with fewer than five
        shards, at most a fifth of the first one's samples.
        """
        if self.validation_path is not None:
            own = WebDataset(self.validation_path, self.language)
            everything = itertools.chain.from_iterable(own.samples(shard) for shard in range(len(own.urls)))
            return HeldOut(self, list(itertools.islice(everything, self.validation_size)))
        self.reserved = {}
        few = len(self.urls) < 5
        most, found = max(1, len(self.urls) // 5), []
        for shard in range(most):
            wanted = self.validation_size - len(found)
            total = sum(1 for _ in itertools.islice(self.samples(shard), 5 * wanted)) if few else 5 * wanted
            taken = list(itertools.islice(self.samples(shard), min(wanted, max(1, total // 5))))
            self.reserved[shard] = len(taken)
            found += taken
            if len(found) == self.validation_size:
                break
        return HeldOut(self, found)


class HeldOut:
    """Held-out samples as a source; they are decoded on access."""

    name = WebDataset.name

    def __init__(self, source: WebDataset, samples: list[Sample]) -> None:
        """Store samples of a source."""
        self.source, self.kept = source, samples

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.source.record(self.kept[index])


def record_of(sample: Sample, language: str = "en", texts_required: bool = True) -> dict[str, Any]:
    """Decode a sample.

    Args:
        sample: undecoded.
        language: of texts without one.
        texts_required: whether an image without text is an error.

    Raises:
        BadRecord: it cannot be used.
    """
    if sample.problem is not None:
        raise _bad(sample, *sample.problem)
    return {"id": f"{sample.shard}:{sample.key}"} | texts_of(sample, language, texts_required) | images_of(sample)


def texts_of(sample: Sample, language: str, required: bool = True) -> dict[str, Any]:
    """The record of a sample without its image: captions and labels. Raises BadRecord."""
    record = _json(sample)
    captions = record.pop("captions", None) or record.pop("caption", None) or record.pop("text", None)
    if isinstance(captions, str | list):
        captions = {language: captions}
    captions = captions or {}
    if "txt" in sample.members and language not in captions:
        text = _decoded(sample, "txt").strip()
        captions = captions | ({language: text} if text else {})
    if captions:
        record["captions"] = captions
    _check(sample, record, required)
    return record


def _json(sample: Sample) -> dict[str, Any]:
    if "json" not in sample.members:
        return {}
    try:
        content = json.loads(_decoded(sample, "json"))
    except (ValueError, RecursionError) as error:
        raise _bad(sample, f"its json is not JSON ({error})", "Fix or remove it.") from error
    if not isinstance(content, dict):
        raise _bad(sample, "its json is not an object", 'Write {"captions": {"en": "..."}}.')
    return {key: value for key, value in content.items() if key not in _OURS}


def _decoded(sample: Sample, extension: str) -> str:
    try:
        return sample.members[extension].decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _bad(sample, f"its {extension} is not UTF-8 ({error})", "Convert it.") from error


def _check(sample: Sample, record: dict[str, Any], text_required: bool) -> None:
    """Raise BadRecord for values in another form than tasks need."""
    for key in ("captions", "keywords"):
        if key in record and not _are_texts_by_language(record[key]):
            raise _bad(sample, f'its "{key}" are not texts by language', f'Write "{key}": {{"en": ["..."]}}.')
    for key in ("prefix", "suffix", "concept"):
        if key in record and not isinstance(record[key], str):
            raise _bad(sample, f'its "{key}" is not text', "Give text, or leave it out.")
    objects = record.get("objects", [])
    if not isinstance(objects, list) or not all(isinstance(item, dict) for item in objects):
        raise _bad(sample, 'its "objects" are not a list of objects', "Fix or leave them out.")
    for item in objects:
        if "box" in item:
            item["box"] = _box(sample, item["box"])
    if text_required and not any(record.get(key) for key in TEXTS):
        raise _bad(sample, "it has no text", f"Give a .txt, or a .json with one of {', '.join(TEXTS)}.")


def images_of(sample: Sample) -> dict[str, Any]:
    """`image`, or `images` in the order of their extensions. Raises BadRecord."""
    if sample.problem is not None:
        raise _bad(sample, *sample.problem)
    names = [name for name in IMAGES if name in sample.members][:1]
    names = names or sorted(name for name in sample.members if name.rpartition(".")[2] in IMAGES)
    if not names:
        has = ", ".join(sorted(sample.members)) or "nothing"
        raise _bad(sample, f"it has no image, but {has}", f"An image is one of {', '.join(IMAGES)}.")
    try:
        images = [load_image(sample.members[name]) for name in names]
    except BadImage as error:
        raise _bad(sample, str(error)) from error
    return {"image": images[0]} if len(images) == 1 else {"images": images}


def _bad(sample: Sample, reason: str, remedy: str = "") -> BadRecord:
    return BadRecord(f"{sample.shard}.tar", sample.key, reason, remedy)


def _box(sample: Sample, value: Any) -> Box:
    """`[x0, y0, x1, y1]` in [0, 1] as a box."""
    numbers = value if isinstance(value, list) and len(value) == 4 else []
    if not numbers or not all(isinstance(x, int | float) and 0 <= x <= 1 for x in numbers):
        raise _bad(sample, f"the box {value} is not [x0, y0, x1, y1] in [0, 1]", "Divide pixels by the image's size.")
    return Box(*numbers)


def _are_texts_by_language(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    texts = [text for own in value.values() for text in (own if isinstance(own, list) else [own])]
    return all(isinstance(text, str) and text for text in texts)
