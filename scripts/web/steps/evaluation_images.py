"""`evaluation_images`: drops copies and near copies of evaluation images, against leakage."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from openpali.modeling.user_errors import UserError
from openpali.scripts.shards.image_hashes import THUMBNAIL, HashImages, ImageHashes, set_rows
from openpali.scripts.shards.near_duplicates import Duplicate, duplicates_of, evaluation_hashes
from openpali.scripts.shards.parallel import in_parallel
from openpali.scripts.web.plan import WebRun
from openpali.scripts.web.samples import KEEP, Verdict, WebSample


@dataclass(frozen=True)
class EvaluationImages:
    """Compares the hashes of each image with those of all evaluation images.

    Attributes:
        against: folders of images, tar shards, or sources as JSON such as `{"name": "coco", ...}`.
        distance: bits of 64 in which the perceptual hashes of copies may differ.
        tables: files with the hashes of the evaluation images; `prepare` makes them.
    """

    against: tuple[str, ...] = ()
    distance: int = 6
    tables: tuple[str, ...] = ()
    needs = "hashes"

    def __post_init__(self) -> None:
        if not self.against:
            raise ValueError("against: give folders of images, tar shards, or sources as JSON")
        if not 0 <= self.distance <= 31:
            raise ValueError(f"distance is from 0 to 31, not {self.distance}")

    def prepare(self, run: WebRun) -> "EvaluationImages":
        """The step with the hashes of the evaluation images, which are computed once.

        Raises:
            UserError: there are no such images.
        """
        try:
            rows = [row for given in self.against for row in set_rows(given, run.output / "evaluation")]
        except ValueError as error:
            raise UserError(f"evaluation_images: against: {error}") from error
        missing = [row for row in rows if not Path(row["path"]).exists()]
        processes = run.workers or os.cpu_count() or 1
        in_parallel(
            HashImages(str(run.output / "evaluation" / "skipped.jsonl")), missing, processes, "evaluation images"
        )
        return replace(self, tables=tuple(row["path"] for row in rows))

    def __call__(self, batch: list[WebSample]) -> list[Verdict]:
        """A reason where an image repeats an evaluation image."""
        others = evaluation_hashes(self.tables)
        found = {one.index: one for one in duplicates_of(hashes_of(batch), others, self.distance)}
        return [verdict_on(found[at], others) if at in found else KEEP for at in range(len(batch))]


def verdict_on(found: Duplicate, others: ImageHashes) -> Verdict:
    """The reason, and which image it is."""
    return Verdict(drop=f"evaluation image, {found.kind}", values={"of": others.names[found.of]})


def hashes_of(batch: list[WebSample]) -> ImageHashes:
    """The hashes of a batch, from the table of the step `hashes`."""
    bits = bytes.fromhex("".join(sample.values["perceptual"] for sample in batch))
    pixels = bytes.fromhex("".join(sample.values["thumbnail"] for sample in batch))
    return ImageHashes(
        [sample.key for sample in batch],
        [sample.values["digest"] for sample in batch],
        np.frombuffer(bits, ">u8").astype(np.uint64),
        np.frombuffer(pixels, np.uint8).reshape(-1, THUMBNAIL * THUMBNAIL * 3),
        np.asarray([sample.number for sample in batch], int),
    )
