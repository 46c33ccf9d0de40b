"""SciCap: captions of figures from scientific papers."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from openpali.data.files.annotations import BadValue, read_json
from openpali.data.records import BadRecord
from openpali.data.sources.public.base import PublicSource, field
from openpali.data.sources.public.captions import checked_texts

SUBSETS = ("First-Sentence", "Single-Sentence-Caption", "Caption-No-More-Than-100-Tokens")
_LOWER = "1-lowercase-and-token-and-remove-figure-index"


class SciCap(PublicSource):
    """Figures with captions, lower-cased, tokenised and without figure numbers (Hsu et al. 2021).

    PaliGemma uses first sentences for figures without subfigures, 106,834 of them for training.
    """

    name = "scicap"
    title = "SciCap"
    address = "https://github.com/tingyaohsu/SciCap (scicap_data.zip)"
    layout = (
        "List-of-Files-for-Each-Experiments/First-Sentence/No-Subfig/{train,val,test}/file_idx.json",
        "SciCap-Caption-All/{train,val,test}/1001.0025v1-Figure2-1.json ...",
        "SciCap-No-Subfig-Img/{train,val,test}/1001.0025v1-Figure2-1.png ...",
    )
    splits = {"train": "train", "validation": "val", "test": "test"}

    def __init__(
        self,
        path: str | Path | None = None,
        split: str = "train",
        image_root: str | Path | None = None,
        subset: str = "First-Sentence",
        subfigures: bool = False,
    ) -> None:
        """Read a list of figures, and the caption of each.

        Args:
            path: folder `scicap_data`.
            split: `train`, `validation` or `test`.
            image_root: folder of the folders of images; by default `path`.
            subset: First-Sentence, Single-Sentence-Caption or Caption-No-More-Than-100-Tokens.
            subfigures: include figures with subfigures.

        Raises:
            MissingData: no path, or a file is missing; the message has download instructions.
            ValueError: there is no such subset or split.
            BadRecord: no entry is good, or more than a tenth of 100 or more are bad.
        """
        if subset not in SUBSETS:
            raise ValueError(f"subset is one of {', '.join(SUBSETS)}, not {subset!r}")
        self.subset, self.kind = subset, "Yes-Subfig" if subfigures else "No-Subfig"
        super().__init__(path, split, image_root)

    def entries(self, split: str) -> Iterable[tuple[str, Any]]:
        """Names of images."""
        own = self.own_split(self.split)
        listing = f"List-of-Files-for-Each-Experiments/{self.subset}/{self.kind}/{own}/file_idx.json"
        for number, file in enumerate(self.read_list(listing)):
            yield file if isinstance(file, str) else f"entry {number}", file

    def row(self, entry: Any) -> dict[str, Any] | None:
        """The image and its caption."""
        if not isinstance(entry, str) or "/" in entry or "\\" in entry:
            raise BadValue("it is not the name of an image", "Download the list again.")
        own = self.own_split(self.split)
        image = self.image(f"SciCap-{self.kind}-Img/{own}/{entry}")
        try:
            content = read_json(self.path / "SciCap-Caption-All" / own / f"{Path(entry).stem}.json")
        except BadRecord as bad:
            raise BadValue(f"{bad.file}: {bad.reason}", bad.remedy) from bad
        caption = field(field(content, _LOWER, dict), "caption")
        return {"captions": {"en": checked_texts(caption)}, "images": [image]}
