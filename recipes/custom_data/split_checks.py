"""The splits of custom data, and checks for empty ones."""

from collections.abc import Iterator

from openpali.data.custom.dataset import CustomDataset
from openpali.data.custom.rows import Row
from openpali.data.records import BadRecord
from openpali.recipes.custom_data.finding import Finding


def usable_splits(data: CustomDataset) -> dict[str, list[Row]]:
    """Good rows of train, validation and test; no splits where there are too few images."""
    try:
        return data.splits()
    except BadRecord:
        return {}


def distinct_splits(data: CustomDataset) -> dict[str, list[Row]]:
    """`usable_splits` without a test split that is the validation split."""
    splits = usable_splits(data)
    return {name: rows for name, rows in splits.items() if name != "test" or rows is not splits["validation"]}


def empty_splits(data: CustomDataset) -> Iterator[Finding]:
    """Splits without a good record, and data too small to split."""
    good = data.good
    for split, rows in good.items():
        if rows or data.spec.resplit and any(good.values()):
            continue
        total, name = len(data.rows[split]), f"{split} split" if split else "dataset"
        bad = next((row.problems[0].bad for row in data.rows[split] if row.problems), None)
        reason = f"none of the {total} records of the {name} is good" if total else f"the {name} is empty"
        remedy = f"The first: {bad}" if bad else "Give it records, or --resplit true to split all records anew."
        yield Finding("error", "empty_split", f"{data.spec.path}: {reason}. {remedy}", total)
    if any(good.values()):
        try:
            for split, rows in data.splits().items():
                if not rows and split not in good:
                    yield Finding("error", "empty_split", f"{data.spec.path}: nothing is left for the {split} split")
        except BadRecord as bad:
            yield Finding("error", "empty_split", str(bad))
