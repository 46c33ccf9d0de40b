"""`python benchmarks/near_copies.py`: the search for near copies of `openpali web`, by number of images.

    python benchmarks/near_copies.py --images 100000 1000000 10000000

Synthetic hashes, of which one in ten is a copy of an earlier one with up to three bits flipped, go through the
group-by over bands and the connected components, on Ray with `--workers` processes. For each number of images: wall
time, CPU hours, the largest memory of a worker without what Ray shares among them, bytes that the group-by moves, and
the share of planted copies that is found. The time must grow as the number of images does, and the memory of a worker
must not grow at all.
"""

import argparse
import json
import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measuring import cpu_seconds, machine, resident_gigabytes, versions

from openpali.scripts.web.copies.components import connected
from openpali.scripts.web.copies.near_pairs import SHARD_BITS, alike_pairs, band_rows, near_pairs
from openpali.scripts.web.running.cluster import cluster, grouped
from openpali.scripts.web.steps.duplicates import ROWS_A_PART, THUMBNAIL_BYTES

DISTANCE, COPY_EVERY, FLIPPED = 6, 10, 3
# images whose hashes one task makes, as a shard has
SHARD = 20_000
# of a row of the group-by: five numbers
COLUMN_BYTES = 5 * 8


def synthetic(batch: dict[str, np.ndarray], parts: int, folder: Path) -> dict[str, np.ndarray]:
    """Rows of one shard for the group-by."""
    place = int(batch["id"][0])
    perceptual, thumbnails = hashes(place)
    rows = band_rows(np.arange(SHARD) | (place << SHARD_BITS), perceptual, thumbnails, DISTANCE, parts)
    note_memory(folder)
    return rows


def hashes(place: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes and thumbnails of a shard's images: some are copies of images of the shard before it."""
    perceptual, thumbnails = originals(place)
    if place:
        others, small = originals(place - 1)
        rng = np.random.default_rng([place, 1])
        at = np.arange(0, SHARD, COPY_EVERY)
        # of images that are no copies themselves
        of = at + 1
        bits = rng.integers(0, 64, (FLIPPED, len(at))).astype(np.uint64)
        perceptual[at] = others[of] ^ np.bitwise_or.reduce(np.uint64(1) << bits, axis=0)
        thumbnails[at] = np.clip(small[of].astype(int) + rng.integers(-8, 9, small[of].shape), 0, 255)
    return perceptual, thumbnails


def originals(place: int) -> tuple[np.ndarray, np.ndarray]:
    """Random hashes and thumbnails."""
    rng = np.random.default_rng([place, 0])
    return rng.integers(0, 2**64, SHARD, np.uint64), rng.integers(0, 256, (SHARD, THUMBNAIL_BYTES), np.uint8)


def thumbnails_of(place: int, numbers: np.ndarray) -> np.ndarray:
    """Thumbnails of a shard, as from its table."""
    return hashes(place)[1][numbers]


def find(group: dict[str, np.ndarray], folder: Path) -> dict[str, np.ndarray]:
    """`near_pairs`, and the memory of this worker."""
    found = near_pairs(group, DISTANCE)
    note_memory(folder)
    return found


def note_memory(folder: Path) -> None:
    """Note this process's own memory, without what Ray shares among processes, and its CPU seconds so far."""
    path = folder / str(os.getpid())
    before = json.loads(path.read_text())[0] if path.exists() else 0
    path.write_text(json.dumps([max(before, resident_gigabytes("RssAnon")), cpu_seconds()]))


def search(images: int, folder: Path) -> dict[str, Any]:
    """One search on the running cluster."""
    import ray

    shards = images // SHARD
    parts = max(1, -(-images * (DISTANCE + 1) // ROWS_A_PART))
    begin = time.monotonic()
    made: Any = partial(synthetic, parts=parts, folder=folder)
    rows = ray.data.range(shards, override_num_blocks=shards).map_batches(made, batch_size=1, batch_format="numpy")
    near = grouped(rows, "part", parts, partial(find, folder=folder)).materialize()
    stars = connected(alike_pairs(near, thumbnails_of, parts), parts)
    found = sum(int(row["count"]) for row in counted(stars))
    seconds = time.monotonic() - begin
    planted = (shards - 1) * (SHARD // COPY_EVERY)
    processes = [json.loads(file.read_text()) for file in folder.iterdir()]
    return {
        "images": images,
        "parts": parts,
        "seconds": round(seconds, 1),
        "cpu_hours": round(sum(cpu for _, cpu in processes) / 3600, 4),
        "worker_gigabytes": round(max(memory for memory, _ in processes), 2),
        "shuffled_gigabytes": round(images * (DISTANCE + 1) * COLUMN_BYTES / 1e9, 2),
        "found": round(found / planted, 5),
        "others": max(0, found - planted),
    }


def counted(stars: Any) -> list[dict[str, Any]]:
    """A row with the number of pairs of each block."""
    count = stars.map_batches(lambda batch: {"count": np.array([len(batch["image"])])}, batch_format="numpy")
    return list(count.iter_rows())


def main() -> None:
    """Print and keep a line for each number of images."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=int, nargs="+", default=[100_000, 300_000, 1_000_000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--results", type=Path, help="append a line of JSON for each number of images to this file")
    args = parser.parse_args()
    for images in args.images:
        with tempfile.TemporaryDirectory() as folder, cluster(None, args.workers):
            row = search(images, Path(folder))
        print("  ".join(f"{name} {value:,}" for name, value in row.items()), flush=True)
        if args.results:
            about = {"machine": machine(), "workers": args.workers, "versions": versions()}
            with args.results.open("a") as file:
                file.write(json.dumps(row | about) + "\n")


if __name__ == "__main__":
    main()
