"""Names of classes that scores would take for one, or people: the same for two numbers, or differently spelled."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from openpali.data.custom.classes import whole_number
from openpali.data.custom.dataset import CustomDataset
from openpali.data.custom.rows import REGION_KINDS, texts
from openpali.recipes.custom_data.record_checks import Finding

_ALIKE = re.compile(r"[\s_\-]+")


def confused_names(found: CustomDataset) -> Iterator[Finding]:
    """Classes that cannot be told apart, by their numbers, in the scores, or by a reader."""
    yield from _shared_names(found)
    names = list(found.classes)
    if found.spec.kind == "classify":
        names = list(dict.fromkeys(name for row in chain(*found.good.values()) for name in found.labels(row)))
        yield from _bare_numbers(found, names)
    elif found.spec.kind not in REGION_KINDS:
        return
    scored = list(_groups(names, scored_name))
    if scored:
        text = f"{found.spec.path}: {'; '.join(scored)} count as one class in the scores. Rename or join them."
        yield Finding("warning", "class_names", text, len(scored), tuple(scored))
    others = [group for group in _groups(names, plain_name) if group not in scored]
    if others:
        text = f"{found.spec.path}: {'; '.join(others)} differ by case, space, - or _ alone. Are they one class?"
        yield Finding("warning", "class_names", text, len(others), tuple(others))


def scored_name(name: str) -> str:
    """What the metrics of boxes, masks and exact matches compare."""
    return " ".join(name.split()).lower()


def plain_name(name: str) -> str:
    """A name without what people write now in one way and now in another."""
    return _ALIKE.sub("", name).casefold()


def _groups(names: Iterable[str], key: Callable[[str], str]) -> Iterator[str]:
    """Names that are one under a key, as a text."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[key(name)].append(name)
    yield from (" and ".join(map(repr, group)) for group in groups.values() if len(group) > 1)


def _shared_names(found: CustomDataset) -> Iterator[Finding]:
    """Numbers that are used and have the same name."""
    used = defaultdict(set)
    for row in chain(*found.good.values()):
        labels = texts(row.answers) if found.spec.kind == "classify" else [item.label for item in row.objects]
        for label in labels:
            if (number := found.numbering.number(label)) is not None:
                used[found.class_names.get(number)].add(number)
    for name, numbers in used.items():
        if name is not None and len(numbers) > 1:
            listed = " and ".join(map(str, sorted(numbers)))
            text = f"{found.spec.path}: classes {listed} are both called {name!r}, and are trained as one"
            yield Finding("warning", "class_names", f"{text}. Rename one, if they are not the same.", len(numbers))


def _bare_numbers(found: CustomDataset, names: list[str]) -> Iterator[Finding]:
    """Classes that are called by numbers."""
    if names and not found.class_names and all(whole_number(name) is not None for name in names):
        text = (
            f"{found.spec.path}: the classes are called {', '.join(sorted(names)[:5])}. If they have names, say them"
        )
        yield Finding("note", "class_names", f"{text} in the order of the numbers from 0: --classes NAME NAME ...")
