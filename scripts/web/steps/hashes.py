"""`hashes`: a digest, a perceptual hash and a thumbnail of each image, for the steps that search for copies."""

from dataclasses import dataclass

from openpali.scripts.shards.image_hashes import hash_image
from openpali.scripts.web.samples import Verdict, WebSample


@dataclass(frozen=True)
class Hashes:
    """Notes the hashes in its table; it drops nothing."""

    def __call__(self, batch: list[WebSample]) -> list[Verdict]:
        """`digest`, `perceptual` and `thumbnail` of each image, as hexadecimal text."""
        return [Verdict(values=hash_image(sample.image)) for sample in batch]
