"""RSVQA: questions about satellite images (low resolution) and aerial images (high resolution)."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from openpali.data.files.annotations import BadValue
from openpali.data.sources.public.base import field
from openpali.data.sources.public.questions import QuestionSource, name_of

NUMBERS = {"count": "", "area": " m2"}
"""Types of questions with numeric answers, and their units."""


class RsVqaLow(QuestionSource):
    """RSVQA-LR (Lobry et al. 2020).

    Questions with numeric answers are left out, as for PaliGemma.
    """

    name = "rsvqa_lr"
    title = "RSVQA-LR"
    address = "https://zenodo.org/records/6344334"
    layout = (
        "LR_split_train_questions.json, LR_split_train_answers.json, and so on for val and test",
        "Images_LR/0.tif, ...: images",
    )
    splits: ClassVar[dict[str, str]] = {"train": "train", "validation": "val", "test": "test"}
    files: ClassVar[str] = "LR_split_{}_{}.json"
    folders: ClassVar[tuple[str, ...]] = ("Images_LR",)
    ranges: ClassVar[tuple[str, ...]] = ("count",)
    hub_columns: ClassVar[dict[str, str | list[str]]] = {
        "image": "image",
        "question": "question",
        "answers": "answer",
        "question_type": "type",
    }

    def __init__(
        self,
        path: str | Path | None = None,
        split: str = "train",
        image_root: str | Path | None = None,
        hub: str | None = None,
        hub_config: str | None = None,
        hub_splits: dict[str, str] | None = None,
        columns: dict[str, str | list[str]] | None = None,
        numbers: bool = False,
    ) -> None:
        """Read and check a split; see `PublicSource`.

        Args:
            path: folder of the dataset.
            split: `train`, `validation` or `test`.
            image_root: folder of the images.
            hub: name of a copy on the Hub.
            hub_config: of the copy.
            hub_splits: of the copy.
            columns: of the copy.
            numbers: include questions with numeric answers. Answers are then the ranges of the official evaluation:
                counts of RSVQA-LR, areas of RSVQA-HR.
        """
        self.numbers = numbers
        super().__init__(path, split, image_root, hub, hub_config, hub_splits, columns)

    def entries(self, split: str) -> Iterable[tuple[str, Any]]:
        """The active questions of the file, which are those of the split, with their answers."""
        answers = self.read_list(self.files.format(split, "answers"), key="answers")
        by_id = {answer["id"]: answer for answer in answers if isinstance(answer, dict) and "id" in answer}
        for number, entry in enumerate(self.read_list(self.files.format(split, "questions"), key="questions")):
            if isinstance(entry, dict) and not entry.get("active"):
                continue
            ids = entry.get("answers_ids") if isinstance(entry, dict) else None
            answer = by_id.get(ids[0]) if isinstance(ids, list) and ids and isinstance(ids[0], int) else None
            yield name_of(entry, "id", number), (entry, answer)

    def folder_row(self, entry: Any) -> dict[str, Any] | None:
        """The question, its answer, and its type."""
        question, answer = entry
        number, kind = field(question, "img_id", int), field(question, "type")
        names = [f"{folder}/{number}.{ending}" for folder in self.folders for ending in ("tif", "png")]
        if answer is None:
            raise BadValue("its answer is not in the file of answers", "Download both again.")
        row = {"images": [self.image(*names)], "question": field(question, "question"), "question_type": kind}
        return self._ranged(row | {"answers": [field(answer, "answer")]})

    def hub_row(self, entry: dict[str, Any]) -> dict[str, Any] | None:
        """The row of a copy."""
        return self._ranged(entry | {"answers": [str(entry["answers"])]})

    def _ranged(self, row: dict[str, Any]) -> dict[str, Any] | None:
        """The row with a range in place of a number; None where numbers are left out."""
        kind = row["question_type"]
        if kind not in NUMBERS:
            return row
        if not self.numbers:
            return self.leave_out("answered by a number (numbers: true includes them)")
        answer = row["answers"][0]
        if kind not in self.ranges or answer.startswith(("between", "more than")):
            return row
        return row | {"answers": [number_range(answer, NUMBERS[kind])]}


class RsVqaHigh(RsVqaLow):
    """RSVQA-HR (Lobry et al. 2020); `test_phili` is its second test split, of another city."""

    name = "rsvqa_hr"
    title = "RSVQA-HR"
    address = "https://zenodo.org/records/6344367"
    layout = (
        "USGS_split_train_questions.json, USGS_split_train_answers.json, and so on for val, test and test_phili",
        "Data/0.tif, ...: images",
    )
    more_splits = ("test_phili",)
    files = "USGS_split_{}_{}.json"
    folders = ("Data", "Images")
    ranges = ("area",)


def number_range(answer: str, unit: str) -> str:
    """The range of a number in the official evaluation.

    >>> number_range("7", ""), number_range("250m2", " m2")
    ('between 1 and 10', 'between 101 m2 and 1000 m2')

    Raises:
        BadValue: it is not a whole number.
    """
    digits = answer.removesuffix(unit.strip())
    if not digits.isdecimal():
        raise BadValue(f"its answer {answer!r} is not a number", "Fix or remove the entry.")
    value = int(digits)
    if value == 0:
        return f"0{unit}"
    for low, high in ((1, 10), (11, 100), (101, 1000)):
        if value <= high:
            return f"between {low}{unit} and {high}{unit}"
    return f"more than 1000{unit}"
