"""Parts on which a score says nothing: without anything to find, or with a single caption."""

from collections.abc import Iterator, Sequence

from openpali.data.custom.dataset import CustomDataset
from openpali.data.custom.rows import REGION_KINDS, Row, texts
from openpali.data.records import BadRecord
from openpali.recipes.custom_data.record_checks import Finding

SCORED = "scored"
BY_LOSS = "weights are chosen by the validation loss"


def empty_scores(found: CustomDataset, scored: int | None = None) -> Iterator[Finding]:
    """Parts whose score is undefined, or cannot be anything but 0.

    Args:
        found: the data.
        scored: records of the validation part that are scored, the first ones; all when None.
    """
    try:
        parts = found.splits()
    except BadRecord:
        return
    for part, rows in parts.items():
        # one part may serve for both
        if not rows or part == "test" and rows is parts["validation"]:
            continue
        if part == "validation" and scored is not None and scored < len(rows):
            rows, part = rows[:scored], f"{SCORED} (--eval_limit {scored}) validation"
        if found.spec.kind in REGION_KINDS:
            if not any(not item.crowd for row in rows for item in row.objects):
                yield without_objects(found, part, len(rows))
        elif found.spec.kind == "caption" and part != "train" and same_captions(rows):
            yield one_caption(found, part, len(rows))


def same_captions(rows: Sequence[Row]) -> bool:
    """Whether all rows have the same captions."""
    return len({tuple(sorted(texts(row.answers))) for row in rows}) == 1


def without_objects(found: CustomDataset, part: str, count: int) -> Finding:
    """No image of a part has an object."""
    text = f"{found.spec.path}: none of the {count} images of the {part} part has an object"
    if part == "train":
        return Finding("error", "positives", f"{text}: there is nothing to learn. Give it objects.", count)
    after = f": its scores are undefined{', and ' + BY_LOSS if 'validation' in part else ''}"
    remedy = "Give a larger --eval_limit." if part.startswith(SCORED) else "Give it some, or --resplit true."
    return Finding("warning", "positives", f"{text}{after}. {remedy}", count)


def one_caption(found: CustomDataset, part: str, count: int) -> Finding:
    """CIDEr weighs words by how rare they are among the images of a part."""
    what = "has one image" if count == 1 else f"has the same captions for all {count} images"
    after = f", and {BY_LOSS}" if "validation" in part else ""
    text = f"{found.spec.path}: the {part} part {what}, on which CIDEr is always 0{after}"
    remedy = "Give a larger --eval_limit." if part.startswith(SCORED) else "Give more, or --validation_data."
    return Finding("warning", "scores", f"{text}. {remedy}", count)
