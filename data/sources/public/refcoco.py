"""RefCOCO, RefCOCO+ and RefCOCOg: all three for fine-tuning as in PaliGemma, or one for published scores."""

from pathlib import Path
from typing import Any

from openpali.data.files.annotations import id_key, read_json
from openpali.data.files.dataset_files import MissingData, listed
from openpali.data.records import BadRecord
from openpali.data.sources.refer import ReferringExpressions, joined

FILES = {"refcoco": "refs(unc)", "refcoco+": "refs(unc)", "refcocog": "refs(umd)"}

_HELP = """Download refcoco.zip, refcoco+.zip and refcocog.zip from https://github.com/lichengunc/refer and the 2014
Train images from https://cocodataset.org/#download, so that the folder holds
  refcoco/refs(unc).json, refcoco/instances.json
  refcoco+/refs(unc).json, refcoco+/instances.json
  refcocog/refs(umd).json, refcocog/instances.json
  train2014/COCO_train2014_000000000009.jpg ...
The archives hold pickles, which are not read here, since opening one can run programs. If you trust their origin, turn
each into JSON yourself: python -c "import json, pickle; json.dump(pickle.load(open('refs(unc).p', 'rb')),
open('refs(unc).json', 'w'))\""""


class RefCoco(ReferringExpressions):
    """Objects with referring expressions.

    In the train split a record is an image with all objects that the three datasets refer to; images of any of their
    validation and test splits are left out. In other splits a record is a sentence and its object, as for published
    scores.
    """

    name = "refcoco"

    def __init__(
        self,
        path: str | Path | None = None,
        split: str = "train",
        image_root: str | Path | None = None,
        only: str | None = None,
    ) -> None:
        """Read and check the files.

        Args:
            path: folder of the datasets' folders.
            split: `train`, `validation`, `test` (which is testA and testB where there are two), `testA` or `testB`.
            image_root: folder of the images; by default `train2014` of `path`.
            only: `refcoco`, `refcoco+` or `refcocog`; all by default.

        Raises:
            MissingData: no path, or a file is missing; the message has download instructions.
            ValueError: there is no such dataset.
            BadRecord: a file has another layout, no entry is good, or more than a tenth of 100 or more are bad.
        """
        if only is not None and only not in FILES:
            raise ValueError(f"only is one of {', '.join(FILES)}, not {only!r}")
        if path is None:
            raise MissingData(f"path is missing: the folder of RefCOCO, RefCOCO+ and RefCOCOg. {_HELP}")
        self.folder, self.only = Path(path), only
        root = Path(image_root) if image_root is not None else self.folder / "train2014"
        train = split == "train"
        super().__init__(path, root, split, each_sentence=not train)
        if train:
            self._group()

    def _group(self) -> None:
        """Group the numbers of the entries by image."""
        found: dict[str, list[int]] = {}
        for number, entry in enumerate(self._entries):
            found.setdefault(entry[1], []).append(number)
        self._groups = list(found.values())

    def __len__(self) -> int:
        return len(self._groups) if self.split == "train" else super().__len__()

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self.split != "train":
            return super().__getitem__(index)
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)} of {self.path}")
        numbers = self._groups[index]
        image = self._entries[numbers[0]][1]
        objects = [self._object(number) for number in numbers]
        return {"id": f"{self.name}:{image}", "image": self._image(numbers[0]), "objects": objects, "crowds": []}

    def _list(self) -> list[Any]:
        """The entries of all datasets, each with a unique id and the COCO annotation of its object."""
        merged = [entry for data_set in FILES for entry in self._entries_of(data_set)]
        evaluated = {entry.get("image_id") for entry in merged if entry.get("split") != "train"}
        wanted = [entry for entry in merged if self.only in (None, entry["data_set"])]
        if self.split != "train":
            return wanted
        return [entry for entry in wanted if entry.get("image_id") not in evaluated]

    def _entries_of(self, data_set: str) -> list[dict[str, Any]]:
        folder = self.folder / data_set
        files = [folder / f"{FILES[data_set]}.json", folder / "instances.json"]
        for file in files:
            if not file.is_file():
                raise MissingData(f"RefCOCO: there is no {file}. {_HELP}")
        content, annotated = listed(read_json(files[0]), None, files[0]), joined(files[1])
        found = []
        for number, entry in enumerate(content):
            if not isinstance(entry, dict):
                raise BadRecord(str(files[0]), f"entry {number}", "it is not a JSON object", "Convert the file again.")
            own = {"ref_id": f"{data_set} {entry.get('ref_id', number)}", "data_set": data_set}
            found.append(entry | own | annotated.get(id_key(entry.get("ann_id")), {}))
        return found
