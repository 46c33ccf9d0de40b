"""Splits whose scores are undefined or always 0: without objects, or with a single caption."""

from collections.abc import Iterator, Sequence

from openpali.data.custom.dataset import CustomDataset
from openpali.data.custom.rows import REGION_KINDS, Row, texts
from openpali.recipes.custom_data.finding import Finding
from openpali.recipes.custom_data.split_checks import distinct_splits

SCORED = "scored"
BY_LOSS = "weights are chosen by the validation loss"


def meaningless_scores(data: CustomDataset, eval_limit: int | None = None) -> Iterator[Finding]:
    """Splits whose score is undefined, or can only be 0.

    Args:
        data: custom data.
        eval_limit: number of first records of the validation split that are scored; all when None.
    """
    for split, rows in distinct_splits(data).items():
        if not rows:
            continue
        if split == "validation" and eval_limit is not None and eval_limit < len(rows):
            rows, split = rows[:eval_limit], f"{SCORED} (--eval_limit {eval_limit}) validation"
        if data.spec.kind in REGION_KINDS:
            if not any(not item.crowd for row in rows for item in row.objects):
                yield _no_objects(data, split, len(rows))
        elif data.spec.kind == "caption" and split != "train" and _same_captions(rows):
            yield _one_caption(data, split, len(rows))


def _same_captions(rows: Sequence[Row]) -> bool:
    """Whether all rows have the same captions."""
    return len({tuple(sorted(texts(row.answers))) for row in rows}) == 1


def _no_objects(data: CustomDataset, split: str, count: int) -> Finding:
    """A split without objects: nothing to learn from, or an undefined score."""
    text = f"{data.spec.path}: none of the {count} images of the {split} split has an object"
    if split == "train":
        return Finding("error", "positives", f"{text}: there is nothing to learn. Give it objects.", count)
    after = f": its scores are undefined{', and ' + BY_LOSS if 'validation' in split else ''}"
    remedy = "Give a larger --eval_limit." if split.startswith(SCORED) else "Give it some, or --resplit true."
    return Finding("warning", "positives", f"{text}{after}. {remedy}", count)


def _one_caption(data: CustomDataset, split: str, count: int) -> Finding:
    """A split whose CIDEr is 0, since CIDEr weighs words by their rarity among the images of a split."""
    what = "has one image" if count == 1 else f"has the same captions for all {count} images"
    after = f", and {BY_LOSS}" if "validation" in split else ""
    text = f"{data.spec.path}: the {split} split {what}, on which CIDEr is always 0{after}"
    remedy = "Give a larger --eval_limit." if split.startswith(SCORED) else "Give more, or --validation_data."
    return Finding("warning", "scores", f"{text}. {remedy}", count)
