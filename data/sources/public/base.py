"""Base of public datasets in their published layout, from a folder or from a copy on the Hub.

A dataset is a subclass of `PublicSource`, with the files of each split (`entries`), the fields of an entry (`row`),
and download instructions for missing files. Nothing is downloaded here.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

from openpali.data.files.annotations import BadValue, check_bad_share, read_json
from openpali.data.files.dataset_files import MissingData, PackedRows, hub_copy, listed, with_images
from openpali.data.files.image_folder import ImageFolder
from openpali.data.images.open_image import BadImage, load_image
from openpali.data.records import BadRecord

NO_IMAGE = "no image"
_HELD_OUT_SHARE = 0.05


class PublicSource(ABC):
    """Records of one split of a dataset; images are decoded on access.

    At the start the annotations are read and checked, and that every image exists. Unusable entries are left out.

    Attributes:
        title: name of the dataset in messages.
        address: where to download it.
        layout: lines that describe the files of its folder.
        splits: `train`, `validation` and `test` to the dataset's own names. Where the test answers are not public,
            `test` is the same as `validation`.
        more_splits: further splits, by the dataset's own names.
        hub_columns: fields of an entry to columns of the usual copy on the Hub. `image` may have several.
        bad: the problem of each unusable entry.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    address: ClassVar[str]
    layout: ClassVar[tuple[str, ...]]
    splits: ClassVar[dict[str, str]] = {"train": "train", "validation": "val", "test": "val"}
    more_splits: ClassVar[tuple[str, ...]] = ()
    hub_columns: ClassVar[dict[str, str | list[str]]] = {"image": "image"}

    def __init__(
        self,
        path: str | Path | None = None,
        split: str = "train",
        image_root: str | Path | None = None,
        hub: str | None = None,
        hub_config: str | None = None,
        hub_splits: dict[str, str] | None = None,
        columns: dict[str, str | list[str]] | None = None,
    ) -> None:
        """Read and check a split.

        Args:
            path: folder of the dataset, see `layout`.
            split: `train`, `validation` or `test`, or the dataset's own name.
            image_root: folder that the images may not leave; by default `path`. Datasets on COCO's images can share
                one.
            hub: name of a copy on the Hub, or a folder that `datasets` can read, in place of `path`.
            hub_config: configuration of the copy.
            hub_splits: our names of splits to those of the copy, where they differ.
            columns: fields to columns of the copy, where they differ.

        Raises:
            MissingData: no path, or a file is missing; the message has download instructions.
            ValueError: there is no such split.
            BadRecord: a file has another layout, no entry is good, or more than a tenth of 100 or more are bad.
        """
        if path is None and hub is None:
            raise MissingData(f"path is missing: the folder of {self.title}. {self.help('it')}")
        self.path = Path(path) if path is not None else Path(str(hub))
        self.image_root = Path(image_root) if image_root is not None else self.path
        self.split, self.hub = split, hub
        self.bad: list[BadRecord] = []
        self.left_out: Counter[str] = Counter()
        self._rows, self._images = PackedRows(), ImageFolder(self.image_root)
        self._there: dict[str, str] = {}
        if hub is None:
            self._read(self.entries(self.own_split(split)))
        else:
            self._columns = self.hub_columns | (columns or {})
            self._copy = hub_copy(hub, hub_config, (hub_splits or {}).get(split, split), self._image_columns)
            self._read(self._hub_entries())

    @abstractmethod
    def entries(self, split: str) -> Iterable[tuple[str, Any]]:
        """A unique name and the argument of `row` for each entry of a split, by the dataset's own name."""

    @abstractmethod
    def row(self, entry: Any) -> dict[str, Any] | None:
        """The JSON values to keep of an entry: `images` (paths checked by `image`) and the fields of its record.

        None leaves the entry out, after `leave_out`. An entry of a Hub copy is a dict of the fields of `columns`; its
        row needs no `images`.

        Raises:
            BadValue: the entry cannot be used.
        """

    def record(self, row: dict[str, Any], images: list[Any]) -> dict[str, Any]:
        """The record of a row: its fields, and `image` or several `images` (PIL RGB)."""
        shown = {"images": images} if len(images) > 1 else {"image": images[0]}
        return {key: value for key, value in row.items() if key != "images"} | shown

    def load_images(self, row: dict[str, Any]) -> list[Any]:
        """The images of a row. Raises BadValue."""
        if self.hub is None:
            return [self._images.load(name) for name in row["images"]]
        found = self._copy[row["images"]]
        try:
            return [load_image(encoded(found[column], column)) for column in self._image_columns]
        except BadImage as error:
            raise BadValue(str(error), "Fix the copy.") from error

    @property
    def notes(self) -> list[str]:
        """Messages about entries left out by design."""
        return [f"{count} left out: {reason}" for reason, count in self.left_out.items()]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)} of {self.path}")
        name, row = self._rows[index]
        try:
            return {"id": f"{self.name}:{name}"} | self.record(row, self.load_images(row))
        except BadValue as bad:
            raise BadRecord(str(self.path), name, bad.reason, bad.remedy) from bad

    def own_split(self, split: str) -> str:
        """The dataset's own name of a split. Raises ValueError for an unknown split."""
        own = {*self.splits.values(), *self.more_splits}
        if split not in self.splits and split not in own:
            raise ValueError(
                f"split: {self.title} has no {split!r}; there are {', '.join(sorted({*self.splits, *own}))}"
            )
        return self.splits.get(split, split)

    def help(self, needed: str) -> str:
        """Download instructions, with the layout of the folder."""
        lines = "\n".join(f"  {line}" for line in self.layout)
        return (
            f"Download {needed} from {self.address}, so that the folder holds\n{lines}\n"
            "or give hub: the name of a copy on the Hub, with columns: {field: column} where they differ."
        )

    def find(self, *names: str) -> Path:
        """The first of these files or folders that exists in the dataset's folder. Raises MissingData."""
        for name in names:
            if (self.path / name).exists():
                return self.path / name
        missing = (
            f"there is no {' or '.join(names)} in {self.path}" if self.path.is_dir() else f"no folder {self.path}"
        )
        raise MissingData(f"{self.title}: {missing}. {self.help(self.title)}")

    def read_list(self, *names: str, key: str | None = None) -> list[Any]:
        """The list in the first of these JSON files that exists, under a key if it has one."""
        path = self.find(*names)
        return listed(read_json(path), key, path)

    def image(self, *names: str) -> str:
        """The first of these images that exists, relative to `image_root`. Raises BadValue."""
        for name in names[:-1]:
            try:
                return self._check(name)
            except BadValue:
                continue
        return self._check(names[-1])

    def leave_out(self, reason: str) -> None:
        """Count an entry that is left out by design; `row` returns the result, None."""
        self.left_out[reason] += 1

    def _check(self, name: str) -> str:
        # many questions share an image
        if name not in self._there:
            self._there[name] = self._images.check(name)
        return self._there[name]

    @property
    def _image_columns(self) -> list[str]:
        columns = self._columns["image"]
        return [columns] if isinstance(columns, str) else list(columns)

    def _hub_entries(self) -> Iterable[tuple[str, Any]]:
        """Every row of the copy, without its images."""
        fields = {key: column for key, column in self._columns.items() if key != "image"}
        names = self._copy.column_names
        wrong = [column for column in fields.values() if column not in names]
        if wrong:
            raise MissingData(
                f"hub: {self.hub} has no column {wrong[0]!r}; there are {', '.join(names)}. Give columns: {{"
                f"{', '.join(f'{key}: ...' for key in fields)}}} as the copy names them."
            )
        shown = with_images(self._copy, self._image_columns)
        for number, entry in enumerate(self._copy.select_columns(list(fields.values()))):
            row = {key: entry[column] for key, column in fields.items()}
            yield str(number), row if shown[number] else None

    def _read(self, entries: Iterable[tuple[str, Any]]) -> None:
        names: set[str] = set()
        for number, (name, entry) in enumerate(entries):
            try:
                if name in names:
                    raise BadValue("another entry has the same id", "Remove one of them.")
                names.add(name)
                row = self.row(entry) if self.hub is None or entry is not None else self.leave_out(NO_IMAGE)
            except BadValue as bad:
                self.bad.append(BadRecord(str(self.path), name, bad.reason, bad.remedy))
                continue
            if row is not None:
                self._rows.append([name, row if self.hub is None else row | {"images": number}])
        self._there.clear()
        try:
            check_bad_share(self.path, len(self._rows), len(self.bad), self.bad)
        except BadRecord as bad:
            # without any usable entry the images are probably not downloaded
            remedy = bad.remedy if len(self._rows) else self.help(f"what {self.path} lacks")
            raise BadRecord(bad.file, bad.record, bad.reason, remedy) from None


def encoded(value: Any, column: str) -> bytes | str:
    """The bytes or the path of an image in a column. Raises BadValue for an empty cell."""
    found = (value.get("bytes") or value.get("path")) if isinstance(value, Mapping) else None
    if found is None:
        raise BadValue(f"its column {column!r} holds no image", "Leave the row out of the copy.")
    return found


def held_out(key: str) -> bool:
    """Whether an image of the train split is set aside for validation, for datasets without a validation split.

    One image in twenty; it depends on the image's key alone, so that no image is in both splits.
    """
    return int.from_bytes(sha256(f"openpali/held_out/{key}".encode()).digest()[:4], "big") < _HELD_OUT_SHARE * 2**32


def field(entry: Any, key: str, kind: type | tuple[type, ...] = str) -> Any:
    """A field of an entry. Raises BadValue when it is missing or of another type."""
    if not isinstance(entry, Mapping):
        raise BadValue("it is not a JSON object", "Download the file again.")
    value = entry.get(key)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        found = type(value).__name__ if key in entry else "missing"
        raise BadValue(f'its "{key}" is {found}', "Fix or remove the entry.")
    return value
