"""Images of people with labels of groups, for scores by group: MIAP, FairFace, and tables of your own.

Labels are how a person appears to an annotator, not what a person is.
"""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from openpali.data.files.text_encoding import read_text
from openpali.data.records import BadRecord
from openpali.data.sources import several
from openpali.data.sources.public.base import field
from openpali.data.sources.public.questions import QuestionSource

_WORDS = """
    yes person people human man men woman women guy guys lady ladies gentleman gentlemen male female boy boys girl
    girls child children kid kids toddler baby babies teenager teenagers adult adults someone somebody
"""
PERSON = tuple(_WORDS.split())
"""English words that name a person, and the answer to whether there is one."""


class LabelledPeople(QuestionSource):
    """Records with `groups`, a question, and as `answers` every word that names a person (for `mentions`)."""

    def __init__(
        self,
        path: str | Path | None = None,
        split: str = "test",
        image_root: str | Path | None = None,
        question: str = "caption en",
        answers: str | Sequence[str] = PERSON,
    ) -> None:
        """Read and check a split; see `PublicSource`.

        Args:
            path: folder of the dataset.
            split: `train`, `validation` or `test`, or the dataset's own name.
            image_root: folder of the images; by default `path`.
            question: asked about every image; a prompt such as `caption en` too.
            answers: what is right for every image.
        """
        self.question, self.answers = question, list(several(answers))
        super().__init__(path, split, image_root)

    def asked(self, images: list[str], groups: dict[str, str]) -> dict[str, Any]:
        """The row of an image."""
        return {"images": images, "question": self.question, "answers": self.answers, "groups": groups}

    def table(self, *names: str, columns: Sequence[str]) -> Iterable[dict[str, str]]:
        """Rows of the first of these tables that exists. Raises BadRecord where a column is missing."""
        yield from read_table(self.find(*names), columns)


class FairFace(LabelledPeople):
    """FairFace (Karkkainen and Joo 2021): faces with `age`, `gender` and `race`."""

    name = "fairface"
    title = "FairFace"
    address = "https://github.com/joojs/fairface"
    layout = (
        "fairface_label_train.csv, fairface_label_val.csv: file, age, gender, race, service_test",
        "train/1.jpg, ..., val/1.jpg, ...: images",
    )
    splits: ClassVar[dict[str, str]] = {"train": "train", "validation": "val", "test": "val"}
    labels: ClassVar[tuple[str, ...]] = ("age", "gender", "race")

    def entries(self, split: str) -> Iterable[tuple[str, Any]]:
        """Rows of the table of a split."""
        for row in self.table(f"fairface_label_{split}.csv", columns=("file", *self.labels)):
            yield row["file"], row

    def folder_row(self, entry: Any) -> dict[str, Any] | None:
        """The image with its labels."""
        groups = {label: entry[label].strip() for label in self.labels if entry[label].strip()}
        return self.asked([self.image(entry["file"])], groups)


class Miap(LabelledPeople):
    """MIAP (Schumann et al. 2021), the images of Open Images with exactly one person: `age` and `gender`."""

    name = "miap"
    title = "MIAP"
    address = "https://storage.googleapis.com/openimages/web/extended.html"
    layout = (
        "open_images_extended_miap_boxes_train.csv, ..._val.csv, ..._test.csv",
        "train/0a1b2c3d4e5f6a7b.jpg, ..., val/, test/: images of Open Images, named after ImageID",
    )
    splits: ClassVar[dict[str, str]] = {"train": "train", "validation": "val", "test": "test"}
    labels: ClassVar[dict[str, str]] = {"age": "AgePresentation", "gender": "GenderPresentation"}

    def entries(self, split: str) -> Iterable[tuple[str, Any]]:
        """The boxes of each image."""
        boxes: dict[str, list[dict[str, str]]] = {}
        name = f"open_images_extended_miap_boxes_{split}.csv"
        for row in self.table(name, f"miap/{name}", columns=("ImageID", *self.labels.values())):
            boxes.setdefault(row["ImageID"], []).append(row)
        for image, rows in boxes.items():
            yield image, (split, rows)

    def folder_row(self, entry: Any) -> dict[str, Any] | None:
        """The image with the labels of its only person; other images are left out."""
        split, rows = entry
        (row, *others), name = rows, rows[0]["ImageID"]
        if others or row.get("IsGroupOf") == "1":
            return self.leave_out("several people")
        images = [self.image(f"{split}/{name}.jpg", f"images/{name}.jpg", f"{name}.jpg")]
        return self.asked(images, {label: row[column].strip() for label, column in self.labels.items()})


class LabelledTable(LabelledPeople):
    """A table (CSV) of images with labels; `path` is the file.

    The column `image` has paths, `question` and `answer` are read where there are such columns, and the columns
    `labels` (all others by default) are labels.
    """

    name = "labelled"
    title = "a table of images with labels"
    address = "wherever your images are"
    layout = ("labels.csv: image, age, gender, ...", "the images, relative to the table")
    splits: ClassVar[dict[str, str]] = {"train": "all", "validation": "all", "test": "all"}

    def __init__(
        self,
        path: str | Path | None = None,
        split: str = "test",
        image_root: str | Path | None = None,
        question: str = "caption en",
        answers: str | Sequence[str] = PERSON,
        labels: str | Sequence[str] = (),
        image: str = "image",
    ) -> None:
        """Read and check a table; see `LabelledPeople`.

        Args:
            path: the table.
            split: all are the whole table.
            image_root: folder of the images; by default that of the table.
            question: where the table has no column `question`.
            answers: where the table has no column `answer`.
            labels: columns that are labels; all others by default.
            image: column of the images' paths.

        Raises:
            BadRecord: there is no such table or column.
        """
        self.labels, self.image_column = several(labels), image
        root = image_root if image_root is not None or path is None else Path(path).parent
        super().__init__(path, split, root, question, answers)

    def entries(self, split: str) -> Iterable[tuple[str, Any]]:
        """Rows of the table, numbered as its lines."""
        remedy = "Give image: COLUMN of the paths, and labels: [COLUMN, ...] as the table names them."
        for number, row in enumerate(read_table(self.path, (self.image_column, *self.labels), remedy), 2):
            yield str(number), row

    def folder_row(self, entry: Any) -> dict[str, Any] | None:
        """The image with its labels."""
        own = (self.image_column, "question", "answer")
        labels = self.labels or [name for name in entry if name not in own]
        groups = {label: entry[label].strip() for label in labels if (entry[label] or "").strip()}
        row = self.asked([self.image(field(entry, self.image_column))], groups)
        row |= {"question": entry["question"]} if "question" in entry else {}
        return row | ({"answers": [entry["answer"]]} if "answer" in entry else {})


def read_table(path: Path, columns: Sequence[str], remedy: str = "Download it again.") -> Iterable[dict[str, str]]:
    """Rows of a CSV file.

    Args:
        path: the file.
        columns: that it must have.
        remedy: where one is missing.

    Raises:
        BadRecord: there is no such file, or a column is missing.
    """
    if not path.is_file():
        raise BadRecord(str(path), "all", "there is no such file", "Check the path.")
    rows = csv.DictReader(read_text(path).splitlines(keepends=True))
    rows.fieldnames = [name.strip() for name in rows.fieldnames or ()]
    if missing := [name for name in columns if name not in rows.fieldnames]:
        known = ", ".join(rows.fieldnames) or "none"
        raise BadRecord(str(path), 1, f"it has no column {missing[0]!r}; it has {known}", remedy)
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            reason = f"it has {'more' if None in row else 'fewer'} fields than the first line"
            raise BadRecord(str(path), number, reason, "Put texts with commas into quotation marks.")
        yield row
