"""Image-text similarity of the samples of a tar shard, by a SigLIP model."""

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoProcessor

from openpali.data.files.tar_shards import read_samples
from openpali.data.records import BadRecord, SkipLog
from openpali.data.sources.webdataset import record_of
from openpali.eval.answering.load_model import warn_slow
from openpali.eval.image_encoders.embedding import embed_images, embed_texts
from openpali.modeling.checkpoints import load_any, reading
from openpali.modeling.dtypes import requested_dtype
from openpali.scripts.shards.parallel import write_table

REDUCE: dict[str, Callable[[list[float]], float]] = {
    "best": max,
    "worst": min,
    "mean": lambda values: sum(values) / len(values),
}
_AT_ONCE = 256

Pair = tuple[int, str, Image.Image, list[str]]


@functools.cache
def load(name: str, device: str, dtype: str) -> tuple[Any, Any]:
    """A model and its processor, loaded once in each process."""
    loaded: Any = load_any(name, dtype=requested_dtype(dtype))
    with reading(name):
        processor = AutoProcessor.from_pretrained(name)
    if dtype == "auto":
        warn_slow(name, loaded, device)
    return loaded.to(device).eval(), processor


@dataclass(frozen=True)
class PairScores:
    """Scores the samples of a shard. A row has its `url` and `name`, and the `path` of the table to write.

    Attributes:
        model: folder or Hub name of a SigLIP.
        languages: of the captions to score; all when empty.
        reduce: score of a sample with several captions: best, worst or mean.
        batch_size: images in a batch.
        skip_log: file that lists samples that cannot be used.
        threads: of each process on CPUs.
        dtype: of the weights; auto is the checkpoint's own.
    """

    model: str
    languages: tuple[str, ...]
    reduce: str
    batch_size: int
    skip_log: str
    threads: int
    dtype: str = "auto"

    def __call__(self, row: dict[str, Any], process: int | None) -> dict[str, Any]:
        """Write the table of a shard, unless it exists."""
        if not Path(row["path"]).exists():
            columns: dict[str, list] = {"number": [], "key": [], "score": []}
            pairs = self.pairs(row["url"], row["name"])
            while chunk := list(itertools.islice(pairs, _AT_ONCE)):
                columns["number"] += [number for number, _, _, _ in chunk]
                columns["key"] += [key for _, key, _, _ in chunk]
                columns["score"] += self.scores(chunk, process or 0)
            write_table(Path(row["path"]), columns)
        return {"name": row["name"]}

    def pairs(self, url: str, name: str) -> Iterator[Pair]:
        """Number, key, image and captions of every good sample; bad ones are logged."""
        log = SkipLog(self.skip_log)
        for sample in read_samples(url, name):
            try:
                record = record_of(sample)
                texts = self.texts(record)
                if not texts:
                    raise BadRecord(f"{sample.shard}.tar", sample.key, "it has no caption in these languages")
            except BadRecord as bad:
                log.add(bad)
                continue
            yield sample.place.number, sample.key, record["image"] if "image" in record else record["images"][0], texts

    def texts(self, record: dict[str, Any]) -> list[str]:
        """The captions to score."""
        captions = record.get("captions", {})
        own = [captions[language] for language in captions if not self.languages or language in self.languages]
        return [text for texts in own for text in ([texts] if isinstance(texts, str) else texts)]

    def scores(self, pairs: list[Pair], process: int) -> list[float]:
        """Cosine similarity of each image with its captions, reduced to one score."""
        count = torch.cuda.device_count()
        if count == 0:
            torch.set_num_threads(self.threads)
        model, processor = load(self.model, f"cuda:{process % count}" if count else "cpu", self.dtype)
        images = embed_images(model, processor.image_processor, [own[2] for own in pairs], self.batch_size)
        texts = [text for own in pairs for text in own[3]]
        sizes = [len(own[3]) for own in pairs]
        embedded = embed_texts(model, processor.tokenizer, texts, batch_size=self.batch_size)
        pieces = zip(images.float(), embedded.float().split(sizes))
        return [REDUCE[self.reduce]((piece @ image).tolist()) for image, piece in pieces]
