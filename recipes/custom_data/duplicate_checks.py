"""Exact duplicates of custom images: within a split, with different labels, and as train/validation leakage.

Equal pixels count as one image. `openpali web` finds resized and compressed near-duplicates in tar shards.
"""

from collections import defaultdict
from collections.abc import Iterator

from openpali.data.custom.dataset import CustomDataset, packed
from openpali.data.custom.rows import REGION_KINDS, Row
from openpali.recipes.custom_data.finding import Finding, place
from openpali.recipes.custom_data.split_checks import distinct_splits

# the rows of one image in each split
RowsBySplit = dict[str, list[Row]]


def exact_duplicates(data: CustomDataset) -> Iterator[Finding]:
    """Images that are in several splits, or several times in one, and duplicates that are labelled differently."""
    images: dict[str, RowsBySplit] = defaultdict(lambda: defaultdict(list))
    for split, rows in distinct_splits(data).items():
        for row in rows:
            images[row.digest][split].append(row)
    for split in ("validation", "test"):
        shared = [rows for rows in images.values() if "train" in rows and split in rows]
        if shared:
            yield _leakage(shared, split)
    repeated = [rows for by_split in images.values() for rows in by_split.values() if _is_repeated(rows, data)]
    if repeated:
        first, second = repeated[0][:2]
        text = f"{len(repeated)} images have duplicates, the first are {place(first)} and {place(second)}"
        remedy = "Remove the duplicates, or they count more than other images."
        yield Finding("warning", "duplicates", f"{text}. {remedy}", len(repeated))
    differing = [rows for rows in repeated if len({packed(row) for row in rows}) > 1]
    if differing and data.spec.kind in ("classify", *REGION_KINDS):
        first, second = differing[0][:2]
        text = f"{len(differing)} images have duplicates with different labels, the first are"
        text += f" {place(first)} and {place(second)}. Keep the right label."
        yield Finding("warning", "contradictions", text, len(differing))


def _leakage(shared: list[RowsBySplit], split: str) -> Finding:
    """Images of the validation or test split that are in the train split."""
    first, same = shared[0][split][0], shared[0]["train"][0]
    text = f"{len(shared)} images of the {split} split are in the train split too (train/{split} leakage)"
    remedy = f"Scores would be too high. Remove them from the {split} split, or give --resplit true."
    return Finding("warning", "leakage", f"{text}, the first: {place(first)} is {place(same)}. {remedy}", len(shared))


def _is_repeated(rows: list[Row], data: CustomDataset) -> bool:
    """Whether the rows of one image repeat it; several questions or captions of one image do not."""
    several = data.spec.kind in ("vqa", "caption")
    return len(rows) > (len({packed(row) for row in rows}) if several else 1)
