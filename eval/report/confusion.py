"""The confusion table of a task with few different answers: which reference was answered how, and how often."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FEWEST, MOST = 2, 25  # different references
OTHER = "other"


@dataclass(frozen=True)
class Confusion:
    """Counts of examples by reference and prediction.

    Attributes:
        references: the heads of the rows.
        predictions: the heads of the columns: the references, then `other` where an answer was none of them.
        counts: a row for each reference.
    """

    references: list[str]
    predictions: list[str]
    counts: list[list[int]]

    def share(self, row: int, column: int) -> float:
        """Of the examples of a row, those in the column."""
        return self.counts[row][column] / sum(self.counts[row])


def confusion_table(rows: Sequence[Mapping[str, Any]]) -> Confusion | None:
    """The table of a task's predictions; None where answers are not closed.

    Answers are closed where every example has one reference, the references have 2 to 25 different values, each value
    stands for two examples on average, and some answer is one of them. Case and space at the ends are ignored.

    Args:
        rows: of `TaskResult.predictions`.
    """
    found = [only_reference(row) for row in rows]
    if any(one is None for one in found) or any(has_objects(row.get("reference")) for row in rows):
        return None
    names: dict[str, str] = {}
    for one in filter(None, found):
        names.setdefault(plain(one), one.strip())
    if not FEWEST <= len(names) <= MOST or len(rows) < 2 * len(names):
        return None
    given = [plain(answer_of(row)) for row in rows]
    if not names.keys() & set(given):
        return None
    keys = sorted(names, key=by_number_or_name)
    counts = Counter((plain(str(one)), answer if answer in names else OTHER) for one, answer in zip(found, given))
    # a reference of that name would share its column
    columns = [*keys, OTHER] if OTHER not in names and any(answer not in names for answer in given) else keys
    table = [[counts[key, column] for column in columns] for key in keys]
    return Confusion([names[key] for key in keys], [names.get(key, OTHER) for key in columns], table)


def only_reference(row: Mapping[str, Any]) -> str | None:
    """The reference of an example; None where it has several different ones, or an empty one."""
    texts = {plain(text) for text in row["references"]}
    return row["references"][0] if len(texts) == 1 and "" not in texts else None


def has_objects(reference: Any) -> bool:
    """Whether the metric compares boxes or masks, and no texts."""
    return isinstance(reference, list) and any(isinstance(one, dict) for one in reference)


def answer_of(row: Mapping[str, Any]) -> str:
    """The answer as the metric took it, where that is a text."""
    prediction = row.get("prediction")
    return prediction if isinstance(prediction, str) else row["text"]


def plain(text: str) -> str:
    """A text without regard to case and space."""
    return " ".join(text.casefold().split())


def by_number_or_name(text: str) -> tuple[bool, float, str]:
    """The sort key of a reference: numbers first, by value."""
    try:
        return False, float(text), text
    except ValueError:
        return True, 0.0, text
