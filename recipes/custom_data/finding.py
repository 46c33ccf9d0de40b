"""A finding of the data check, and the place in the data that it names."""

from dataclasses import dataclass

from openpali.data.custom.rows import Row, RowObject

# examples that a finding lists
SHOWN = 5


@dataclass(frozen=True)
class Finding:
    """One result of a check.

    Attributes:
        level: error, warning or note.
        check: name of the check.
        text: the problem, its place, and the remedy.
        records: number of records, images or classes with this problem.
        examples: the first of them.
    """

    level: str
    check: str
    text: str
    records: int = 0
    examples: tuple[str, ...] = ()


def place(row: Row, item: RowObject | None = None) -> str:
    """File and record of a row, or of one of its objects."""
    return f"{row.file}:{item.record if item and item.record else row.record}"
