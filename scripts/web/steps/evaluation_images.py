"""`evaluation_images`: drops copies and near copies of evaluation images, against leakage."""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from openpali.modeling.user_errors import UserError
from openpali.scripts.web.copies.evaluation_sets import hash_part, set_parts
from openpali.scripts.web.copies.image_hashes import THUMBNAIL, ImageHashes
from openpali.scripts.web.copies.near_duplicates import Duplicate, duplicates_of, evaluation_hashes
from openpali.scripts.web.running.cluster import over_shards
from openpali.scripts.web.running.plan import WebRun
from openpali.scripts.web.running.samples import KEEP, Verdict, WebSample


@dataclass(frozen=True)
class EvaluationImages:
    """Compares the hashes of each image with those of all evaluation images.

    Attributes:
        against: folders of images, tar shards, or sources as JSON such as `{"name": "coco", ...}`; all nodes see them.
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
        folder = run.output / "evaluation"
        skipped = folder / "skipped.jsonl"
        try:
            parts = [part for given in self.against for part in set_parts(given, folder)]
        except ValueError as error:
            raise UserError(f"evaluation_images: against: {error}") from error
        missing = [place for place, part in enumerate(parts) if not part.table.exists()]
        over_shards(missing, partial(hash_part, parts=parts, skip_log=skipped), "hashing evaluation images")
        if skipped.exists():
            # a part that was cut off is hashed again
            count = len(set(skipped.read_text("utf-8").splitlines()))
            print(f"evaluation_images: images that cannot be used, whose copies are not found: {count} ({skipped})")
        return replace(self, tables=tuple(str(part.table) for part in parts))

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
