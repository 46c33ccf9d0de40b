"""Public datasets in the layout in which they are handed out, from a folder or from a copy on the Hub.

A dataset is a subclass of `PublicSource`: which files hold a split of it, what an entry says, and what to download
where something is missing. Nothing is downloaded here.
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
    """Records of one split of a dataset, their images decoded as they are asked for.

    The annotations are read and checked at the start, and that every image is there. Entries that cannot be used
    are left out.

    Attributes:
        title: what people call the dataset.
        address: where it is handed out.
        layout: lines that say which files its folder holds.
        splits: `train`, `validation` and `test` to the dataset's own names. Where the answers of the test split are
            not public, `test` is that of `validation`.
        more_splits: further splits of the dataset, by its own names.
        hub_columns: the fields of an entry to the columns of the usual copy on the Hub. `image` may be several.
        bad: what is wrong with each entry that cannot be used.
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
            path: folder of the dataset, as `layout` says.
            split: `train`, `validation` or `test`, or a name of the dataset's own.
            image_root: folder of the images, which they may not leave; by default `path`. Datasets on COCO's
                images can share one.
            hub: name of a copy on the Hub, in place of `path`; a folder that `datasets` can read will do.
            hub_config: which of the copy's configurations.
            hub_splits: of the copy, where they are not called train, validation and test.
            columns: of the copy, where they are not called like the fields.

        Raises:
            MissingData: no path, or a file is missing; the message says what to download.
            ValueError: there is no such split.
            BadRecord: a file is not what it should be, no entry is good, or more than a tenth of 100 or more are bad.
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
        """A name that no other entry of the split has, and whatever `row` takes, of every entry."""

    @abstractmethod
    def row(self, entry: Any) -> dict[str, Any] | None:
        """What is kept of an entry, in JSON: `images` (paths checked by `image`), and the fields of its record.

        None leaves it out; `leave_out` says why. An entry of a Hub copy is a dict of the fields of `columns`, and
        needs no `images`.

        Raises:
            BadValue: it cannot be used.
        """

    def record(self, row: dict[str, Any], images: list[Any]) -> dict[str, Any]:
        """The record of a row: its fields, and `image` or, where there are several, `images` (PIL RGB)."""
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
        """How many entries are left out by design."""
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
        """The dataset's own name of a split. Raises ValueError when it has none like that."""
        own = {*self.splits.values(), *self.more_splits}
        if split not in self.splits and split not in own:
            raise ValueError(
                f"split: {self.title} has no {split!r}; there are {', '.join(sorted({*self.splits, *own}))}"
            )
        return self.splits.get(split, split)

    def help(self, what: str) -> str:
        """Where to download, and how the folder must look."""
        lines = "\n".join(f"  {line}" for line in self.layout)
        return (
            f"Download {what} from {self.address}, so that the folder holds\n{lines}\n"
            "or give hub: the name of a copy on the Hub, with columns: {field: column} where they differ."
        )

    def find(self, *names: str) -> Path:
        """The first of these files or folders that is in the dataset's folder. Raises MissingData."""
        for name in names:
            if (self.path / name).exists():
                return self.path / name
        missing = (
            f"there is no {' or '.join(names)} in {self.path}" if self.path.is_dir() else f"no folder {self.path}"
        )
        raise MissingData(f"{self.title}: {missing}. {self.help(self.title)}")

    def read_list(self, *names: str, key: str | None = None) -> list[Any]:
        """The list in the first of these JSON files that is there, under a key if it has one."""
        path = self.find(*names)
        return listed(read_json(path), key, path)

    def image(self, *names: str) -> str:
        """The first of these images, relative to `image_root`, that is there. Raises BadValue."""
        for name in names[:-1]:
            try:
                return self._check(name)
            except BadValue:
                continue
        return self._check(names[-1])

    def leave_out(self, reason: str) -> None:
        """Count an entry that is left out by design; a `row` that returns this leaves it out."""
        self.left_out[reason] += 1

    def _check(self, name: str) -> str:
        # one image has many questions
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
                f"{', '.join(f'{key}: ...' for key in fields)}}} as the copy calls them."
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
            # whoever has no image at all has not downloaded them
            remedy = bad.remedy if len(self._rows) else self.help(f"what {self.path} lacks")
            raise BadRecord(bad.file, bad.record, bad.reason, remedy) from None


def encoded(value: Any, column: str) -> bytes | str:
    """The bytes, or the path, of an image in a column. Raises BadValue when there is none."""
    found = (value.get("bytes") or value.get("path")) if isinstance(value, Mapping) else None
    if found is None:
        raise BadValue(f"its column {column!r} holds no image", "Leave the row out of the copy.")
    return found


def held_out(key: str) -> bool:
    """Whether an entry of the training split is set aside for validation, where the dataset has no such split.

    One in twenty; it depends on the key alone, which is the image's, so that no image is in both.
    """
    return int.from_bytes(sha256(f"openpali/held_out/{key}".encode()).digest()[:4], "big") < _HELD_OUT_SHARE * 2**32


def field(entry: Any, key: str, kind: type | tuple[type, ...] = str) -> Any:
    """A field of an entry, of the kind that it should be. Raises BadValue when it is missing or another."""
    if not isinstance(entry, Mapping):
        raise BadValue("it is not a JSON object", "Download the file again.")
    value = entry.get(key)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        found = type(value).__name__ if key in entry else "missing"
        raise BadValue(f'its "{key}" is {found}', "Fix or remove the entry.")
    return value
