"""What a step of `openpali web` gets and gives: samples of a raw shard, and a verdict on each.

A sample's `record` is JSON: `captions` ({language: texts}), `words` and `objects` with boxes as `[x0, y0, x1, y1]` in
[0, 1], as `source: webdataset` reads them. `label_models` in it names the model behind each automatic label.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL import Image

UNKNOWN = "und"
"""Language of captions whose language is not known, as in ISO 639-2."""


@dataclass
class WebSample:
    """A usable sample of a raw shard.

    Attributes:
        shard: the shard's name.
        number: of the sample in its shard, from 0.
        key: of the sample in its shard.
        image: RGB, upright.
        record: its texts and labels so far, as JSON.
        values: what earlier steps have put in their tables, such as its hashes.
    """

    shard: str
    number: int
    key: str
    image: Image.Image
    record: dict[str, Any]
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """What a step says of a sample.

    Attributes:
        drop: why the sample goes, in a few words that many samples share, as in `no caption in these languages`; a
            sample without a reason stays.
        labels: keys that replace those of the record; None removes one.
        models: label to the model that made it, as in `{"words": "RapidOCR 3.10", "captions.de": "..."}`.
        values: numbers and texts for the step's table, a column each, such as a score; the same for each sample.
    """

    drop: str = ""
    labels: dict[str, Any] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    values: dict[str, float | int | str] = field(default_factory=dict)


KEEP = Verdict()


class Step(Protocol):
    """A frozen dataclass of options, called on a batch of one shard.

    Its instances travel to other processes, so models are loaded at the first call (`functools.cache`), never in
    `__init__`; options are checked in `__post_init__` by ValueError. The same batch gives the same verdicts.
    """

    def __call__(self, batch: list[WebSample]) -> list[Verdict]:
        """A verdict on each sample, in the order of the batch."""
        ...


def merged(record: dict[str, Any], verdict: Verdict) -> dict[str, Any]:
    """The record with a verdict's labels, and the models behind them."""
    record = {key: value for key, value in (record | verdict.labels).items() if value is not None}
    if verdict.models:
        record["label_models"] = record.get("label_models", {}) | verdict.models
    return record
