"""`duplicates`: of images that are copies or near copies of each other, in any shards, the first one stays."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np

from openpali.scripts.shards.image_hashes import THUMBNAIL
from openpali.scripts.web.cluster import grouped, over_shards, shard_rows
from openpali.scripts.web.components import connected
from openpali.scripts.web.near_pairs import SHARD_BITS, band_rows, near_pairs
from openpali.scripts.web.plan import StepPlan, WebRun
from openpali.scripts.web.samples import KEEP, Verdict
from openpali.scripts.web.tables import Row, survivors, write_table

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
        bands = shard_rows(every).map_batches(
            partial(read_bands, **own, parts=parts), batch_size=1, batch_format="numpy"
        )
        stars = connected(grouped(bands, "part", parts, partial(near_pairs, distance=self.distance)), parts)
        by_shard = grouped(
            stars.map_batches(add_shard, batch_format="numpy"), "shard", parts, partial(write_group, **own)
        )
        rest = sorted(set(every) - {row["shard"] for row in by_shard.iter_rows()})
        over_shards(rest, partial(write_copies, **own), "shards without copies")


def count_images(row: dict[str, Any], run: WebRun, plan: StepPlan) -> dict[str, Any]:
    """What earlier steps have kept of a shard."""
    return row | {"images": len(survivors(run, run.names[int(row["shard"])], plan) or ())}


def read_bands(batch: dict[str, np.ndarray], run: WebRun, plan: StepPlan, parts: int) -> dict[str, np.ndarray]:
    """Rows of a shard for the group-by, from the table of the step `hashes`."""
    place = int(batch["shard"][0])
    found = survivors(run, run.names[place], plan) or []
    numbers = np.array([one.number for one in found], np.int64) | np.int64(place << SHARD_BITS)
    values = [one.values for one in found]
    bits = np.frombuffer(bytes.fromhex("".join(own["perceptual"] for own in values)), ">u8").astype(np.uint64)
    pixels = np.frombuffer(bytes.fromhex("".join(own["thumbnail"] for own in values)), np.uint8)
    return band_rows(numbers, bits, pixels.reshape(len(found), THUMBNAIL_BYTES), plan.step.distance, parts)


def add_shard(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Pairs with the place of the shard of each image."""
    return batch | {"shard": batch["image"] >> SHARD_BITS}


def write_group(group: dict[str, np.ndarray], run: WebRun, plan: StepPlan) -> dict[str, np.ndarray]:
    """Write the table of a shard that has copies; the group has all of them."""
    place, mask = int(group["shard"][0]), (1 << SHARD_BITS) - 1
    first = {int(image) & mask: int(of) for image, of in zip(group["image"], group["of"])}
    named = {number: f"{run.names[of >> SHARD_BITS]}:{of & mask}" for number, of in first.items()}
    write_copies({"shard": place}, run, plan, named)
    return {"shard": np.array([place])}


def write_copies(
    row: dict[str, Any], run: WebRun, plan: StepPlan, copies: Mapping[int, str] = MappingProxyType({})
) -> dict[str, Any]:
    """Write the table of a shard.

    Args:
        row: the shard.
        run: whose shard it is.
        plan: of the step.
        copies: number of each copy to the image that stays, as shard and number.
    """
    name = run.names[int(row["shard"])]
    verdicts = {number: Verdict(drop="copy", values={"of": of}) for number, of in copies.items()}
    rows = [Row(one.number, one.key, verdicts.get(one.number, KEEP)) for one in survivors(run, name, plan) or ()]
    write_table(run.table(plan, name), rows)
    return row
