"""Records, parts, classes and copies of custom data: what is wrong with them, where, and the remedy."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from openpali.data.custom.dataset import CustomDataset, packed
from openpali.data.custom.rows import REGION_KINDS, Row
from openpali.data.records import BadRecord

MANY, MAX_BAD_SHARE, SHOWN, FEW = 100, 0.1, 5, 5

WORDS = {
    "line": "records cannot be read",
    "id": "images have no id of their own; they and their annotations are left out",
    "lost": "images have no annotation, and some annotations no image; they are left out",
    "picture": "images cannot be used",
    "size": "images have another size than the file says",
    "box": "boxes cannot be used; their images are left out",
    "beyond": "labels are none of the classes; their records are left out",
    "class": "classes are not known; their images are left out",
    "outline": "outlines cannot be used; their images are left out",
    "empty_answer": "answers are empty",
    "empty_question": "questions are empty",
}
# mistakes of whole files, however few records show them
GRAVE = ("id", "lost", "beyond")


@dataclass(frozen=True)
class Finding:
    """Something to tell.

    Attributes:
        level: error, warning or note.
        check: what was looked at.
        text: what is wrong, where, and the remedy.
        records: how many it is about.
        examples: the first of them.
    """

    level: str
    check: str
    text: str
    records: int = 0
    examples: tuple[str, ...] = ()


def parts(found: CustomDataset) -> Iterator[Finding]:
    """Parts without a record, and data too small to be split."""
    good = found.good
    for part, rows in good.items():
        if rows or found.spec.resplit and any(good.values()):
            continue
        total, name = len(found.rows[part]), part or "whole"
        bad = next((row.problems[0].bad for row in found.rows[part] if row.problems), None)
        reason = (
            f"the {name} part is empty" if not total else f"none of the {total} records of the {name} part is good"
        )
        remedy = f"The first: {bad}" if bad else "Give it records, or --resplit true to split all records anew."
        yield Finding("error", "empty_split", f"{found.spec.path}: {reason}. {remedy}", total)
    if any(good.values()):
        try:
            for part, rows in found.splits().items():
                if not rows and part not in good:
                    yield Finding("error", "empty_split", f"{found.spec.path}: nothing is left for the {part} part")
        except BadRecord as bad:
            yield Finding("error", "empty_split", str(bad))


def class_names(found: CustomDataset, asked: Sequence[str]) -> Iterator[Finding]:
    """Classes that the prompt does not name, that are not trained on, or of which there are few."""
    counts, first = class_counts(found), {}
    if not counts:
        return
    for row in chain(*found.good.values()):
        for name in found.labels(row):
            first.setdefault(name, row)
    together: Counter[str] = sum(counts.values(), Counter())
    for name in sorted(set(together) - set(asked)) if asked else ():
        row = first[name]
        text = f"{row.file}:{row.record}: class {name!r} ({together[name]} times) is missing from the prompt"
        yield Finding("error", "prompt", f"{text}. Name it in --prompt, or leave --prompt out.", together[name])
    for name in sorted(set(asked) - set(together)):
        text = f"{found.spec.path}: the prompt names {name!r}, of which there is no example. Check its spelling."
        yield Finding("warning", "prompt", text)
    train = counts["train"]
    for part in ("validation", "test"):
        for name in sorted(set(counts[part]) - set(train)):
            row = first[name]
            text = f"{row.file}:{row.record}: class {name!r} is in the {part} part and not in training"
            yield Finding("warning", "classes", f"{text}. Give training examples of it.", counts[part][name])
    few = [f"{name} ({count})" for name, count in sorted(train.items()) if count < FEW]
    if few:
        text = f"{found.spec.path}: few examples of {', '.join(few[:SHOWN])} to train on. Give more."
        yield Finding("warning", "classes", text, len(few))


def single_records(found: CustomDataset) -> Iterator[Finding]:
    """Records that are left out, like ones together; an error when they are many."""
    groups: dict[str, list[BadRecord]] = defaultdict(list)
    rows = list(chain(*found.rows.values()))
    for row in rows:
        for one in row.problems:
            groups[one.check].append(one.bad)
    spoiled = sum(bool(row.problems) for row in rows)
    level = "error" if spoiled == len(rows) or len(rows) >= MANY and spoiled > MAX_BAD_SHARE * len(rows) else "warning"
    for check, bad in groups.items():
        text = f"{len(bad)} {WORDS[check]}. The first: {bad[0]}"
        yield Finding("error" if check in GRAVE else level, check, text, len(bad), tuple(map(str, bad[:SHOWN])))


def copies(found: CustomDataset) -> Iterator[Finding]:
    """ImageFolder that are there twice, in one part or in two, and copies that are labelled differently."""
    try:
        together = found.splits()
    except BadRecord:
        return
    seen: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for part, rows in together.items():
        # one part may serve for both
        for row in rows if part != "test" or rows is not together["validation"] else ():
            seen[row.digest][part].append(row)
    for others in ("validation", "test"):
        shared_images = [places for places in seen.values() if "train" in places and others in places]
        if shared_images:
            yield _leakage(shared_images, others)
    twice = [rows for places in seen.values() for rows in places.values() if _doubled(rows, found)]
    if twice:
        where = f"{twice[0][0].file}:{twice[0][0].record} and {twice[0][1].record}"
        text = f"{len(twice)} images are there more than once, the first are {where}"
        yield Finding(
            "warning", "duplicates", f"{text}. Remove the copies, or they count more than others.", len(twice)
        )
    torn = [rows for rows in twice if len({packed(row) for row in rows}) > 1]
    if torn and found.spec.kind in ("classify", *REGION_KINDS):
        where = f"{torn[0][0].file}:{torn[0][0].record} and {torn[0][1].record}"
        text = f"{len(torn)} images are there with different labels, the first are {where}. Keep the right one."
        yield Finding("warning", "contradictions", text, len(torn))


def _leakage(shared_images: list[dict[str, list[Row]]], part: str) -> Finding:
    first, same = shared_images[0][part][0], shared_images[0]["train"][0]
    where = f"{first.file}:{first.record} is {same.file}:{same.record}"
    text = f"{len(shared_images)} images of the {part} part are trained on as well, the first: {where}"
    remedy = f"Scores would be too good. Remove them from the {part} part, or give --resplit true."
    return Finding("warning", "leakage", f"{text}. {remedy}", len(shared_images))


def _doubled(rows: list[Row], found: CustomDataset) -> bool:
    """Whether records of one image are copies; several questions about one, or captions of it, are none."""
    several = found.spec.kind in ("vqa", "caption")
    return len(rows) > (len({packed(row) for row in rows}) if several else 1)


def class_counts(found: CustomDataset) -> dict[str, Counter[str]]:
    """Objects or records of each class in each part; empty where the kind has no classes."""
    if found.spec.kind not in ("classify", *REGION_KINDS):
        return {}
    try:
        together = found.splits()
    except BadRecord:
        together = {"train": list(chain(*found.good.values())), "validation": [], "test": []}
    return {part: Counter(name for row in rows for name in found.labels(row)) for part, rows in together.items()}
