"""Records of custom data that cannot be used."""

from collections import defaultdict
from collections.abc import Iterator
from itertools import chain

from openpali.data.custom.dataset import CustomDataset
from openpali.data.records import BadRecord
from openpali.recipes.custom_data.finding import SHOWN, Finding

# records from which a large share of bad ones is an error
MANY, MAX_BAD_SHARE = 100, 0.1

PROBLEMS = {
    "line": "records cannot be read",
    "id": "images have no id of their own; they and their annotations are left out",
    "lost": "images have no annotation, and some annotations no image; they are left out",
    "image": "images cannot be used",
    "size": "images have another size than the file says",
    "box": "boxes cannot be used; their images are left out",
    "beyond": "labels are none of the classes; their records are left out",
    "class": "classes are not known; their images are left out",
    "segmentation": "segmentations cannot be used; their images are left out",
    "unasked": "images are not asked about every class; they are left out",
    "empty_answer": "answers are empty",
    "empty_question": "questions are empty",
}
# problems of the whole file, errors even in a single record
FILE_PROBLEMS = ("id", "lost", "beyond")


def bad_records(data: CustomDataset) -> Iterator[Finding]:
    """Records that are left out, grouped by problem; an error if they are many."""
    groups: dict[str, list[BadRecord]] = defaultdict(list)
    rows = list(chain(*data.rows.values()))
    for row in rows:
        for problem in row.problems:
            groups[problem.check].append(problem.bad)
    bad_rows = sum(bool(row.problems) for row in rows)
    many = bad_rows == len(rows) or len(rows) >= MANY and bad_rows > MAX_BAD_SHARE * len(rows)
    for check, bad in groups.items():
        level = "error" if many or check in FILE_PROBLEMS else "warning"
        text = f"{len(bad)} {PROBLEMS[check]}. The first: {bad[0]}"
        yield Finding(level, check, text, len(bad), tuple(map(str, bad[:SHOWN])))
