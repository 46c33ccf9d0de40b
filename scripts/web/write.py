"""The shards that `openpali web` makes: what all steps have kept, with its labels, and an index in Parquet."""

import json
from collections.abc import Iterator
from typing import Any

import pyarrow
from pyarrow import parquet

from openpali.data.files.tar_shards import Sample, read_samples
from openpali.data.sources.webdataset import IMAGES, TEXTS, texts_of
from openpali.scripts.web.passes import as_json
from openpali.scripts.web.running.files import write_shard, written_aside
from openpali.scripts.web.running.plan import WebRun
from openpali.scripts.web.running.tables import Survivor, survivors

INDEX = pyarrow.schema(
    [
        ("shard", pyarrow.string()),
        ("key", pyarrow.string()),
        ("languages", pyarrow.list_(pyarrow.string())),
        ("labels", pyarrow.list_(pyarrow.string())),
        ("models", pyarrow.list_(pyarrow.string())),
        ("source", pyarrow.string()),
        ("license", pyarrow.string()),
    ]
)
# keys of a record that are no labels
_ABOUT = ("captions", "label_models", "source", "license", "licence")


def write_kept(row: dict[str, Any], run: WebRun) -> dict[str, Any]:
    """Write what is kept of a shard, and then its part of the index."""
    place = int(row["shard"])
    name = run.names[place]
    kept = {one.number: one for one in survivors(run, name) or ()}
    lines: list[dict[str, Any]] = []
    samples = read_samples(run.urls[place], name, wanted=kept.__contains__)
    write_shard(run.output / "shards" / f"{name}.tar", members(run, samples, kept, lines))
    with written_aside(run.index(name)) as aside:
        parquet.write_table(pyarrow.Table.from_pylist(lines, INDEX), aside, compression="zstd")
    return row


def members(
    run: WebRun, samples: Iterator[Sample], kept: dict[int, Survivor], lines: list[dict[str, Any]]
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Key and files of each kept sample with texts or labels; its line of the index goes to `lines`."""
    for sample in samples:
        record = kept[sample.place.number].merged(as_json(texts_of(sample, run.language, required=False)))
        if not any(record.get(key) for key in TEXTS):
            continue
        lines.append(index_line(sample, record))
        image = next(name for name in IMAGES if name in sample.members)
        content = json.dumps(record, ensure_ascii=False, sort_keys=True).encode()
        yield sample.key, {image: sample.members[image], "json": content}


def index_line(sample: Sample, record: dict[str, Any]) -> dict[str, Any]:
    """A sample's line of the index."""
    return {
        "shard": sample.shard,
        "key": sample.key,
        "languages": sorted(record.get("captions", {})),
        # a step that found nothing leaves an empty list
        "labels": sorted(key for key, value in record.items() if value and key not in _ABOUT),
        "models": sorted(set(record.get("label_models", {}).values())),
        "source": str(record.get("source", "")),
        "license": str(record.get("license", record.get("licence", ""))),
    }
