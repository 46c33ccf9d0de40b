"""`python benchmarks/stream_resume.py`: time to resume a stream of tar shards, by position.

    python benchmarks/stream_resume.py --positions 0 1000000 10000000

1,001 shards of 10,000 records; all are hard links to one file. A run saves its position near the beginning, and the
same position is moved behind N records: the shards before it count as read. Then a new stream loads it and gives the
next example. Resuming must neither take longer nor read more the farther it is. The alternative is what a loader
without a position does, as Transformers' Trainer with an iterable dataset: it reads the records before the position
and drops them. Its time is the measured rate of reading times the number of records.
"""

import argparse
import copy
import io
import json
import os
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from measuring import Results, add_results, cpu_seconds
from PIL import Image

from openpali.data.sources.webdataset import WebDataset
from openpali.data.streaming.positions import Reader
from openpali.data.streaming.stream import TaskStream
from openpali.data.tasks import load_task

RECORDS, OPEN, READ = 10_000, 4, 4_000


def write_shards(folder: Path, count: int) -> None:
    """One shard of captions with a tiny image, and links to it."""
    image = io.BytesIO()
    Image.new("RGB", (16, 16), (9, 99, 199)).save(image, "JPEG")
    with tarfile.open(folder / "00000.tar", "w") as archive:
        for number in range(RECORDS):
            for extension, content in (("jpg", image.getvalue()), ("txt", f"picture {number}".encode())):
                member = tarfile.TarInfo(f"{number:06}.{extension}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    for number in range(1, count):
        os.link(folder / "00000.tar", folder / f"{number:05}.tar")


def new_cursor(folder: Path) -> Any:
    """The examples of a single worker."""
    source = WebDataset(str(folder), open_shards=OPEN)
    stream = TaskStream(source, load_task({"name": "caption"}), seed=0, epochs=1)
    return stream.cursor(Reader(0, 1))


def moved(state: dict[str, Any], records: int) -> dict[str, Any]:
    """A saved position, moved by a number of records: whole shards."""
    state, shards = copy.deepcopy(state), records // RECORDS
    state["samples"]["next"] += shards
    state["samples"]["open"] = [[unit + shards, *place] for unit, *place in state["samples"]["open"]]
    state["read"] += records
    return state


def bytes_read() -> int:
    """Bytes that this process has read from files so far."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


def resume(folder: Path, state: dict[str, Any]) -> tuple[float, float]:
    """CPU seconds and megabytes until the first example after the position."""
    begin, before = cpu_seconds(), bytes_read()
    cursor = new_cursor(folder)
    cursor.load_state_dict(json.loads(json.dumps(state)))
    next(cursor)
    return cpu_seconds() - begin, (bytes_read() - before) / 1e6


def main() -> None:
    """Print a line for each position."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--positions", type=int, nargs="+", default=[0, 100_000, 1_000_000, 9_900_000])
    add_results(parser)
    options = parser.parse_args()
    results = Results("stream_resume", options.results)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_shards(folder, 1 + OPEN + max(options.positions) // RECORDS)
        cursor = new_cursor(folder)
        begin = cpu_seconds()
        for _ in range(READ):
            next(cursor)
        rate, state = READ / (cpu_seconds() - begin), cursor.state_dict()
        print(f"reading from the beginning: {rate:.0f} records per CPU second")
        for position in options.positions:
            seconds, megabytes = min(resume(folder, moved(state, position)) for _ in range(3))
            there = position + READ
            print(f"resume at record {there:>11,}: {seconds:6.3f} CPU s, {megabytes:6.1f} MB read", flush=True)
            results.add(f"record {there}", "reading what lies before", "CPU s", seconds, there / rate)


if __name__ == "__main__":
    main()
