"""`duplicates`: of images that are copies or near copies of each other, in any shards, the first one stays."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np

from openpali.scripts.web.copies.components import connected
from openpali.scripts.web.copies.image_hashes import THUMBNAIL
from openpali.scripts.web.copies.near_pairs import SHARD_BITS, Columns, add_shard, alike_pairs, band_rows, near_pairs
from openpali.scripts.web.running.cluster import grouped, mapped, over_shards, shard_rows
from openpali.scripts.web.running.plan import StepPlan, WebRun
from openpali.scripts.web.running.samples import KEEP, Verdict
from openpali.scripts.web.running.tables import Row, survivors, write_table

THUMBNAIL_BYTES = THUMBNAIL * THUMBNAIL * 3
ROWS_A_PART = 1_000_000


@dataclass(frozen=True)
class Duplicates:
    """Drops images that are connected to an earlier one by near copies.

    Attributes:
        distance: bits of 64 in which the perceptual hashes of copies may differ.
        parts: groups among which the images are divided; by default for a million rows each. More need less memory.
    """

    distance: int = 6
    parts: int | None = None
    needs = "hashes"

    def __post_init__(self) -> None:
        if not 0 <= self.distance <= 31:
            raise ValueError(f"distance is from 0 to 31, not {self.distance}")
        if self.parts is not None and self.parts < 1:
            raise ValueError(f"parts is at least 1, not {self.parts}")

    def decide(self, run: WebRun, plan: StepPlan) -> None:
        """Find the copies, and write the tables."""
        every, own = range(len(run.names)), {"run": run, "plan": plan}
        images = sum(row["images"] for row in over_shards(every, partial(count_images, **own), "counting images"))
        parts = self.parts or max(1, math.ceil(images * (self.distance + 1) / ROWS_A_PART))
        bands = mapped(shard_rows(every), partial(read_bands, **own, parts=parts), size=1)
        near = grouped(bands, "part", parts, partial(near_pairs, distance=self.distance)).materialize()
        copies = iter(())
        if near.count():
            stars = connected(alike_pairs(near, partial(read_thumbnails, **own), parts), parts)
            by_shard = mapped(stars, partial(add_shard, of="image"))
            copies = grouped(by_shard, "shard", parts, partial(write_group, **own)).iter_rows()
        rest = sorted(set(every) - {row["shard"] for row in copies})
        over_shards(rest, partial(write_copies, **own), "shards without copies")


def count_images(row: dict[str, Any], run: WebRun, plan: StepPlan) -> dict[str, Any]:
    """What earlier steps have kept of a shard."""
    return row | {"images": len(survivors(run, run.names[int(row["shard"])], plan) or ())}


def read_bands(batch: Columns, run: WebRun, plan: StepPlan, parts: int) -> Columns:
    """Rows of a shard for the group-by, from the table of the step `hashes`."""
    place = int(batch["shard"][0])
    found = survivors(run, run.names[place], plan) or []
    numbers = np.array([one.number for one in found], np.int64)
    bits = bytes.fromhex("".join(one.values["perceptual"] for one in found))
    perceptual = np.frombuffer(bits, ">u8").astype(np.uint64)
    thumbnails = read_thumbnails(place, numbers, run, plan)
    return band_rows(numbers | np.int64(place << SHARD_BITS), perceptual, thumbnails, plan.step.distance, parts)


def read_thumbnails(place: int, numbers: np.ndarray, run: WebRun, plan: StepPlan) -> np.ndarray:
    """uint8[n, t], the thumbnails of n samples of a shard."""
    texts = {one.number: one.values["thumbnail"] for one in survivors(run, run.names[place], plan) or ()}
    pixels = bytes.fromhex("".join(texts[number] for number in numbers.tolist()))
    return np.frombuffer(pixels, np.uint8).reshape(len(numbers), THUMBNAIL_BYTES)


def write_group(group: Columns, run: WebRun, plan: StepPlan) -> Columns:
    """Write the table of a shard that has copies; the group has all of them."""
    place, mask = int(group["shard"][0]), (1 << SHARD_BITS) - 1
    first = {int(image) & mask: int(of) for image, of in zip(group["image"], group["of"])}
    named = {number: f"{run.names[of >> SHARD_BITS]}:{of & mask}" for number, of in first.items()}
    write_copies({"shard": place}, run, plan, named)
    return {"shard": np.array([place])}


def write_copies(
    row: dict[str, Any], run: WebRun, plan: StepPlan, copies: Mapping[int, str] = MappingProxyType({})
) -> dict[str, Any]:
    """Write the table of a shard; `copies` has the number of each copy, and the shard and number of what stays."""
    name = run.names[int(row["shard"])]
    verdicts = {number: Verdict(drop="copy", values={"of": of}) for number, of in copies.items()}
    rows = [Row(one.number, one.key, verdicts.get(one.number, KEEP)) for one in survivors(run, name, plan) or ()]
    write_table(run.table(plan, name), rows)
    return row
