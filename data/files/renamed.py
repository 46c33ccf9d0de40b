"""Names of 0.1 that have changed: the old ones are accepted for one version, with a line that gives the new one."""

import functools
import sys
from collections.abc import Mapping
from typing import Any

# keys of configurations and options of the command line
KEYS = {"exact_pictures": "exact_images", "texts_per_picture": "texts_per_image"}
# sources and tasks
NAMES = {"own": "custom"}
CONFIGS = {"transfers/own": "transfers/custom"}
METRICS = {"box_f1": "detection"}


def current(name: str, table: Mapping[str, str]) -> str:
    """The name that takes the place of an old one; any other name as it is."""
    if name in table:
        _announce(name, table[name])
    return table.get(name, name)


def current_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by the keys of today."""
    return {current(key, KEYS) if isinstance(key, str) else key: value for key, value in values.items()}


def current_spec(spec: dict[str, Any]) -> dict[str, Any]:
    """A source or a task by its name of today."""
    name = spec.get("name")
    return spec | {"name": current(name, NAMES)} if isinstance(name, str) and name in NAMES else spec


def current_options(argv: list[str]) -> list[str]:
    """A command line with the options of today."""
    return [_option(word) if word.startswith("--") else word for word in argv]


def _option(word: str) -> str:
    name, sign, value = word.partition("=")
    return f"--{current(name[2:], KEYS)}{sign}{value}"


@functools.cache
def _announce(old: str, new: str) -> None:
    print(f"{old} is called {new} now; the old name is accepted until 0.2", file=sys.stderr, flush=True)
