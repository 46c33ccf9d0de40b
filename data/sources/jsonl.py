"""Custom data: a line `{"image": "dog.png", "prefix": "what is this?", "suffix": "a dog"}` for each record.

A line with a conversation (`openpali.data.files.conversations`) is a record for each question in it.
"""

import json
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

from PIL import Image

from openpali.data.files.annotations import BadValue, check_bad_share
from openpali.data.files.conversations import conversation_key, questions, without_marks
from openpali.data.files.image_folder import ImageFolder
from openpali.data.files.text_encoding import SAVE_AS_UTF8, encoding_of, not_unicode
from openpali.data.images.open_image import BadImage, image_size, load_image
from openpali.data.records import BadRecord
from openpali.data.sources.jsonl_splits import split_file
from openpali.modeling.control_tokens import found_controls

_HEAD = 256  # bytes that tell the encoding


class JsonlSource:
    """Records of a JSON-lines file, read from disk on access.

    The whole file is checked at the start: the JSON of each line, the header of each image, and the first images by
    decoding them. Unusable records are left out and listed in `bad`.

    Attributes:
        bad: the problem of each unusable record.
    """

    name = "jsonl"
    known = ("image", "images", "prefix", "suffix", "references", "groups", "id")
    medium = "image"

    def __init__(
        self,
        path: str | Path,
        image_root: str | Path | None = None,
        check_decode: int = 1000,
        decode_size: int | None = None,
        split: str | None = None,
    ) -> None:
        """Check and index a file.

        Args:
            path: the file, or with `split` a folder of one for each split. Each line has `image` (a path, or a list of
                paths), `prefix`, `suffix`, `references` (a list) where there are several correct answers, and `groups`
                (`{"age": "old"}`) for scores by group.
            image_root: folder that image paths are relative to and may not leave; by default that of the file.
            check_decode: number of records whose images are decoded as a check.
            decode_size: side in pixels of the model's images, by which large JPEG files are decoded at reduced size
                (`openpali.data.images.open_image.load_image`).
            split: `train`, `validation` or `test`, the last without a file of its own is the validation split.

        Raises:
            BadRecord: the file is missing, no record is good, or more than a tenth of 100 or more are bad.
        """
        self.path = Path(path) if split is None else split_file(Path(path), split)
        self.image_root = Path(image_root) if image_root is not None else self.path.parent
        self.decode_size = decode_size
        self.bad: list[BadRecord] = []
        # of each record: offset of its line, number of the line, number of the question in it
        self._starts, self._lines, self._turns = array("q"), array("q"), array("q")
        self._empty: list[int] = []
        self._folder = ImageFolder(self.image_root, self.image_root, self.path.parent)
        self._controls: list[str] = []
        self._boxes, self._split = 0, split
        self._check(check_decode)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`id`, `image` (PIL RGB) or `images`, `prefix`, `suffix`, and `references` and `groups` where given."""
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)} of {self.path}")
        record, number, turn = self._record(index)
        found = {"id": f"{self.path.name}:{number}" + (f"-{turn}" if turn else "")} | self._images(record, number)
        given = ("prefix", "suffix", "references", "groups")
        return found | {key: record[key] for key in given if record.get(key) is not None}

    def line(self, index: int) -> int:
        """The line number of a record."""
        return self._lines[index]

    def texts(self, index: int) -> dict[str, str]:
        """`prefix` and `suffix` of a record, without its images."""
        record, *_ = self._record(index)
        return {key: record[key] for key in ("prefix", "suffix") if key in record}

    def _record(self, index: int) -> tuple[dict[str, Any], int, int]:
        """A record, the number of its line, and the number of its question in the line."""
        number, turn = self._lines[index], self._turns[index]
        with self.path.open("rb") as file:
            file.seek(self._starts[index])
            return self._checked(self._load(file.readline(), number)[turn], number), number, turn

    @property
    def notes(self) -> list[str]:
        """Messages about empty answers, boxes, and texts that look like control tokens."""
        found = []
        if self._empty:
            count, first = len(self._empty), self._empty[0]
            text = f"{count} of {len(self)} records have an empty suffix, the first in line {first}"
            found.append(f"{text}: a model learns to answer nothing. Is that intended?")
        if self._controls:
            count, first = len(self._controls), self._controls[0]
            found.append(
                f"{count} records have texts that look like control tokens of the models, the first {first}. They are"
                " read as letters; remove them unless that is intended."
            )
        # once for all splits
        if self._boxes > len(self) / 2 and self._split in (None, "train"):
            found.append(
                f"{self._boxes} of {len(self)} suffixes have location tokens, which are tokens of the model. They are"
                " scored as texts by exact match; --kind detect checks and scores them as boxes."
            )
        return found

    def _images(self, record: dict[str, Any], number: int) -> dict[str, Any]:
        """`image`, or `images` where there are several."""
        images = [self._decode(path, number) for path in self._image_paths(record, number)]
        return {"images": images} if len(images) > 1 else {"image": images[0]}

    def _check(self, check_decode: int) -> None:
        """Index the usable records and list the others. Raises BadRecord where these are too many."""
        seen: dict[Path, BadImage | None] = {}
        for number, start, line in self._read_lines():
            try:
                records = [self._checked(record, number) for record in self._load(line, number)]
                # all questions of a line have the same images
                self._check_images(records[0], number, seen, decode=len(self._starts) < check_decode)
            except BadRecord as bad:
                self.bad.append(bad)
                continue
            self._empty += [number] * sum(not record.get("suffix", "-").strip() for record in records)
            self._boxes += sum("<loc" in record.get("suffix", "") for record in records)
            for turn in range(len(records)):
                self._starts.append(start)
                self._lines.append(number)
                self._turns.append(turn)
            texts = (
                record[key] for record in records for key in ("prefix", "suffix") if isinstance(record.get(key), str)
            )
            # location and segmentation tokens are allowed: prompt and target are written by hand
            if tokens := list(dict.fromkeys(found_controls(texts, places=False))):
                self._controls.append(f"{self.path}:{number}: {', '.join(tokens)}")
        check_bad_share(self.path, len(self._starts), len(self.bad), self.bad, "Write one JSON object a line.")

    def _read_lines(self) -> Iterator[tuple[int, int, bytes]]:
        """Number from 1, byte offset and content of every line that is not blank."""
        if self.path.is_dir():
            split_file(self.path, "train")
        if not self.path.is_file():
            raise BadRecord(str(self.path), "all", "there is no such file", "Check the path.")
        start = 0
        with self.path.open("rb") as file:
            self._refuse_other_files(file.read(_HEAD))
            file.seek(0)
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, start, line
                start += len(line)

    def _refuse_other_files(self, head: bytes) -> None:
        """Raise BadRecord for a file in another encoding, or a JSON list."""
        encoding = encoding_of(head)
        if not encoding.startswith("utf-8"):
            raise BadRecord(str(self.path), "all", f"it is {encoding.upper()}", SAVE_AS_UTF8)
        if self.path.suffix == ".json" and head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
            remedy = "Write one object a line, or give --kind, which reads lists too."
            raise BadRecord(str(self.path), "all", "it is a JSON list, not JSON lines", remedy)

    def _load(self, line: bytes, number: int) -> list[dict[str, Any]]:
        """The record of a line, or those of its conversation."""
        try:
            record = json.loads(line.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise self._bad(number, not_unicode(line[error.start]), SAVE_AS_UTF8) from error
        except (ValueError, RecursionError) as error:
            raise self._bad(number, f"it is not JSON in UTF-8 ({error})", "Fix the line.") from error
        if not isinstance(record, dict):
            raise self._bad(number, "it is not a JSON object", 'Write {"image": ..., "prefix": ..., "suffix": ...}.')
        key = conversation_key(record)
        if key is None:
            return [record]
        try:
            rows = questions(record, key)
        except BadValue as bad:
            raise self._bad(number, bad.reason, bad.remedy) from bad
        # other keys of conversations are ignored
        names = {"question": "prefix", "answer": "suffix"}
        return [{names.get(key, key): one[key] for key in one if key in (*names, *self.known)} for one in rows]

    def _checked(self, record: dict[str, Any], number: int) -> dict[str, Any]:
        """The record, its keys and types checked. Raises BadRecord."""
        for key in self._needed(record):
            if not isinstance(record.get(key), str):
                found = type(record[key]).__name__ if key in record else "missing"
                raise self._bad(number, f'"{key}" is {found}', f'Give "{key}" as text.')
        references = record.get("references")
        if references is not None and not _are_texts(references):
            raise self._bad(number, '"references" is not a list of texts', "Give a list of texts, or leave it out.")
        groups = record.get("groups")
        if groups is not None and not _are_labels(groups):
            raise self._bad(number, '"groups" is not a mapping of labels', 'Give it as {"age": "old"}.')
        if unknown := sorted(set(record) - set(self.known)):
            raise self._bad(number, f"it has unknown keys {unknown}", f"Known ones are {', '.join(self.known)}.")
        if "prefix" in record:
            record["prefix"] = without_marks(record["prefix"])
        return record

    def _needed(self, record: dict[str, Any]) -> tuple[str, ...]:
        """Keys that must hold a text."""
        return ("prefix", "suffix")

    def _check_images(
        self, record: dict[str, Any], number: int, seen: dict[Path, BadImage | None], decode: bool
    ) -> None:
        for path in self._image_paths(record, number):
            self._check_image(path, number, seen, decode)

    def _image_paths(self, record: dict[str, Any], number: int) -> list[Path]:
        """Absolute paths of a record's images, inside `image_root`."""
        names = record.get("image", record.get("images"))
        paths = [names] if isinstance(names, str) else names
        if not _are_texts(paths):
            raise self._bad(number, '"image" is missing or not a path', 'Give "image" as a path or a list of paths.')
        return [self._inside(path, number) for path in paths]

    def _inside(self, name: str, number: int) -> Path:
        if name.startswith(("http://", "https://")):
            raise self._bad(
                number, f"{name} is an address on the web", f"Download the {self.medium} and give its path."
            )
        root = self.image_root.resolve()
        try:
            path = (root / name).resolve()
            if not path.exists():
                path = self._other_place(name) or path
            inside = path.is_relative_to(root)
        except (OSError, ValueError, RuntimeError) as error:
            raise self._bad(number, f"{name!r} is not a path ({error})", "Fix it.") from error
        if not inside:
            raise self._bad(
                number,
                f"{name} is outside {self.image_root}",
                f"Move the {self.medium} there, or give another image_root.",
            )
        return path

    def _other_place(self, name: str) -> Path | None:
        """An image that lies beside the file, or whose name is spelled differently on disk; None without one."""
        try:
            return (self.image_root / self._folder.check(name)).resolve()
        except BadValue:
            return None

    def _check_image(self, path: Path, number: int, seen: dict[Path, BadImage | None], decode: bool) -> None:
        """Raise BadRecord for an unusable image; an image of several records is read once."""
        if path not in seen:
            try:
                load_image(path) if decode else image_size(path)
                seen[path] = None
            except BadImage as error:
                seen[path] = error
        error = seen[path]
        if error is not None:
            raise self._bad(number, str(error)) from error

    def _decode(self, path: Path, number: int) -> Image.Image:
        try:
            return load_image(path, self.decode_size)
        except BadImage as error:
            raise self._bad(number, str(error)) from error

    def _bad(self, number: int, reason: str, remedy: str = "") -> BadRecord:
        return BadRecord(str(self.path), number, reason, remedy)


def _are_labels(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(one, str | int | float) and one != "" for one in value.values())


def _are_texts(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(item, str) and item for item in value)
