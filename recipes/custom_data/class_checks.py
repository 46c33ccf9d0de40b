"""Classes of custom data: their numbers of examples in each split, and names that are easily confused."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

from openpali.data.custom.classes import whole_number
from openpali.data.custom.dataset import CustomDataset
from openpali.data.custom.rows import REGION_KINDS, Row, texts
from openpali.recipes.custom_data.finding import SHOWN, Finding, place
from openpali.recipes.custom_data.split_checks import usable_splits

# examples of a class below which they are few
FEW = 5
_SEPARATORS = re.compile(r"[\s_\-]+")


def class_counts(data: CustomDataset) -> dict[str, Counter[str]]:
    """Objects or records of each class in each split; empty for kinds without classes."""
    if data.spec.kind not in ("classify", *REGION_KINDS):
        return {}
    unsplit = {"train": list(chain(*data.good.values())), "validation": [], "test": []}
    splits = usable_splits(data) or unsplit
    return {split: Counter(name for row in rows for name in data.labels(row)) for split, rows in splits.items()}


def class_examples(data: CustomDataset, prompt_classes: Sequence[str]) -> Iterator[Finding]:
    """Classes that the prompt lacks, that the train split lacks, or that have few examples.

    Args:
        data: custom data.
        prompt_classes: classes that every prompt names; prompts are not checked when empty.
    """
    counts = class_counts(data)
    if not counts:
        return
    first: dict[str, Row] = {}
    for row in chain(*data.good.values()):
        for name in data.labels(row):
            first.setdefault(name, row)
    total: Counter[str] = sum(counts.values(), Counter())
    for name in sorted(set(total) - set(prompt_classes)) if prompt_classes else ():
        text = f"{place(first[name])}: class {name!r} ({total[name]} times) is missing from the prompt"
        yield Finding("error", "prompt", f"{text}. Name it in --prompt, or leave --prompt out.", total[name])
    for name in sorted(set(prompt_classes) - set(total)):
        text = f"{data.spec.path}: the prompt names {name!r}, which has no example. Check its spelling."
        yield Finding("warning", "prompt", text)
    train = counts["train"]
    for split in ("validation", "test"):
        for name in sorted(set(counts[split]) - set(train)):
            text = f"{place(first[name])}: class {name!r} is in the {split} split and not in the train split"
            yield Finding("warning", "classes", f"{text}. Give training examples of it.", counts[split][name])
    few = [f"{name} ({count})" for name, count in sorted(train.items()) if count < FEW]
    if few:
        text = f"{data.spec.path}: few training examples of {', '.join(few[:SHOWN])}. Give more."
        yield Finding("warning", "classes", text, len(few))


def similar_names(data: CustomDataset) -> Iterator[Finding]:
    """Classes that share a name, that the metrics take for one, or whose names differ by spelling alone."""
    yield from _shared_names(data)
    names = list(data.classes)
    if data.spec.kind == "classify":
        names = list(dict.fromkeys(name for row in chain(*data.good.values()) for name in data.labels(row)))
        yield from _unnamed_classes(data, names)
    elif data.spec.kind not in REGION_KINDS:
        return
    equal = list(_groups(names, metric_name))
    if equal:
        text = f"{data.spec.path}: {'; '.join(equal)} count as one class in the scores. Rename or join them."
        yield Finding("warning", "class_names", text, len(equal), tuple(equal))
    similar = [group for group in _groups(names, plain_name) if group not in equal]
    if similar:
        text = f"{data.spec.path}: {'; '.join(similar)} differ by case, space, - or _ alone. Are they one class?"
        yield Finding("warning", "class_names", text, len(similar), tuple(similar))


def metric_name(name: str) -> str:
    """A class name as the metrics of boxes, masks and exact matches compare it."""
    return " ".join(name.split()).lower()


def plain_name(name: str) -> str:
    """A class name without case, spaces, hyphens and underscores."""
    return _SEPARATORS.sub("", name).casefold()


def _groups(names: Iterable[str], key: Callable[[str], str]) -> Iterator[str]:
    """Names that have the same key, as a text for each key."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[key(name)].append(name)
    yield from (" and ".join(map(repr, group)) for group in groups.values() if len(group) > 1)


def _shared_names(data: CustomDataset) -> Iterator[Finding]:
    """Category ids in use that have the same name."""
    ids_of_name = defaultdict(set)
    for row in chain(*data.good.values()):
        labels = texts(row.answers) if data.spec.kind == "classify" else [item.label for item in row.objects]
        for label in labels:
            if (number := data.numbering.number(label)) is not None:
                ids_of_name[data.class_names.get(number)].add(number)
    for name, ids in ids_of_name.items():
        if name is not None and len(ids) > 1:
            listed = " and ".join(map(str, sorted(ids)))
            text = f"{data.spec.path}: classes {listed} are both called {name!r}, and are trained as one"
            yield Finding("warning", "class_names", f"{text}. Rename one, if they are not the same.", len(ids))


def _unnamed_classes(data: CustomDataset, names: list[str]) -> Iterator[Finding]:
    """Classes whose names are numbers."""
    if names and not data.class_names and all(whole_number(name) is not None for name in names):
        listed = ", ".join(sorted(names)[:SHOWN])
        text = f"{data.spec.path}: the classes are called {listed}. If they have names, give them in the order of the"
        yield Finding("note", "class_names", f"{text} numbers, from 0: --classes NAME NAME ...")
