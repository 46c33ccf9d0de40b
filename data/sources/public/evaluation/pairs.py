"""MMVP: pairs of images that CLIP takes for alike, with one question each."""

import csv
import re
from collections.abc import Iterable
from typing import Any, ClassVar

from openpali.data.files.annotations import BadValue
from openpali.data.files.text_encoding import read_text
from openpali.data.records import BadRecord
from openpali.data.sources.public.base import field
from openpali.data.sources.public.questions import QuestionSource

_OPTION = re.compile(r"\(([a-z])\)\s*(.*?)\s*(?=\([a-z]\)|$)", re.IGNORECASE | re.DOTALL)
# the published file spells the first column with a small L
_INDEX = ("Index", "lndex")
_COLUMNS = ("Question", "Options", "Correct Answer")


class Mmvp(QuestionSource):
    """MMVP (Tong et al. 2024): 300 questions; questions 1 and 2 are the first pair, 3 and 4 the second.

    Both of a pair are the same question about different images, with different answers. `question_type` is the pair,
    for the metric `pair_accuracy`. `choices` are the texts of the options without their letters.
    """

    name = "mmvp"
    title = "MMVP"
    address = "https://huggingface.co/datasets/MMVP/MMVP"
    layout = ("Questions.csv", "MMVP Images/1.jpg, ...: images, named after the questions")
    splits: ClassVar[dict[str, str]] = {"train": "test", "validation": "test", "test": "test"}
    hub_columns: ClassVar[dict[str, str | list[str]]] = {
        "image": "image",
        "index": "Index",
        "question": "Question",
        "options": "Options",
        "correct": "Correct Answer",
    }

    def entries(self, split: str) -> Iterable[tuple[str, Any]]:
        """Rows of the table."""
        path = self.find("Questions.csv")
        rows = csv.DictReader(read_text(path).splitlines(keepends=True))
        columns = [name.strip() for name in rows.fieldnames or ()]
        index = next((name for name in _INDEX if name in columns), None)
        if index is None or not set(_COLUMNS) <= set(columns):
            reason = f"its columns are {', '.join(columns)}, not Index, {', '.join(_COLUMNS)}"
            raise BadRecord(str(path), 1, reason, "Download it again.")
        rows.fieldnames = columns
        for row in rows:
            entry = {"index": row[index], "question": row["Question"], "options": row["Options"]}
            yield str(row[index]).strip(), entry | {"correct": row["Correct Answer"]}

    def folder_row(self, entry: Any) -> dict[str, Any] | None:
        """The question with its choices, and its image."""
        number = index_of(entry)
        images = [self.image(f"MMVP Images/{number}.jpg", f"images/{number}.jpg", f"{number}.jpg")]
        return question_row(entry) | {"images": images}

    def hub_row(self, entry: dict[str, Any]) -> dict[str, Any] | None:
        """The question with its choices."""
        return question_row(entry)


def question_row(entry: Any) -> dict[str, Any]:
    """Question, choices, correct choice and pair of an entry. Raises BadValue."""
    options = {letter.lower(): text for letter, text in _OPTION.findall(field(entry, "options"))}
    letter = field(entry, "correct").strip().strip("()").lower()
    if letter not in options:
        known = ", ".join(f"({one})" for one in options) or "none"
        raise BadValue(f"its correct answer is {entry['correct']!r}, and its options are {known}", "Fix the row.")
    return {
        "question": field(entry, "question"),
        "choices": list(options.values()),
        "correct": list(options).index(letter),
        "question_type": f"pair {(index_of(entry) + 1) // 2}",
    }


def index_of(entry: Any) -> int:
    """The number of a question, from 1. Raises BadValue."""
    text = str(field(entry, "index", (str, int))).strip()
    if not text.isdecimal() or int(text) < 1:
        raise BadValue(f"its index {text!r} is not a number from 1", "Fix the row.")
    return int(text)
