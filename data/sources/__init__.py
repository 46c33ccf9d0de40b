"""Sources: where records come from. A source has `__len__`, `__getitem__` and `name`, and raises `BadRecord`."""

import importlib
import inspect
from difflib import get_close_matches
from typing import Any, Protocol, runtime_checkable

from openpali.data.records import BadRecord

SOURCES = {
    "emoji": "openpali.data.sources.emoji:EmojiScenes",
    "jsonl": "openpali.data.sources.jsonl:JsonlSource",
}


class Source(Protocol):
    """Anything that holds records: dicts with `id` and either `image` (PIL RGB) or `images`."""

    name: str

    def __len__(self) -> int:
        """Number of records."""
        ...

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One record; `BadRecord` when it cannot be used."""
        ...


@runtime_checkable
class CheckedSource(Source, Protocol):
    """A source that reads its records beforehand, leaves out the bad ones and lists them."""

    bad: list[BadRecord]


def load_source(spec: dict[str, Any]) -> Source:
    """The source that a dict describes: `{"name": "emoji", "split": "train"}`, its options beside its name.

    Raises:
        ValueError: an unknown name or option; the message gives the nearest known one.
    """
    return build(spec, SOURCES, "source")


def build(spec: dict[str, Any], table: dict[str, str], what: str) -> Any:
    """Import `table[spec["name"]]` and call it with the rest of the spec. Raises ValueError on unknown keys."""
    options = {key: value for key, value in spec.items() if key != "name"}
    if "name" not in spec:
        raise ValueError(f"a {what} needs a name, one of {', '.join(table)}: {spec}")
    if spec["name"] not in table:
        raise ValueError(f"no {what} {spec['name']!r}{_nearest(spec['name'], list(table))}")
    module, _, attribute = table[spec["name"]].partition(":")
    factory = getattr(importlib.import_module(module), attribute)
    known = list(inspect.signature(factory).parameters)
    for option in options:
        if option not in known:
            raise ValueError(f"{what} {spec['name']!r} has no option {option!r}{_nearest(option, known)}")
    try:
        return factory(**options)
    except TypeError as error:
        raise ValueError(f"{what} {spec['name']!r}: {error}. Its options: {', '.join(known)}.") from error


def _nearest(word: Any, known: list[str]) -> str:
    close = get_close_matches(str(word), known, 1, 0.5)
    return f". Did you mean {close[0]!r}?" if close else f". There are: {', '.join(known)}."
