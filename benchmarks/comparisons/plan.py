"""What a comparison runs: rows of YAML become chains of training steps, and equal steps are one.

A row names its variants and the steps of each; `steps.yaml` has the steps that rows share, with their options. A step
of one variant and seed is identified by everything that decides its result: its command, its options, the steps
before it and the seed. So variants that begin alike share these steps, within a row and between rows.
"""

import copy
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
# words of a step that are not options of its command; LIKE names the shared step that it changes
LIKE, VERB, FOLDER_OPTION, SEEDED = "like", "verb", "folder_option", "seeded"
TINY = {"max_steps": 2, "eval_steps": 2, "save_steps": 2, "eval_limit": 4, "test_limit": 2, "limit": 200}


@dataclass(frozen=True)
class Step:
    """One command of a chain.

    Attributes:
        name: in the row's chain.
        verb: of `openpali`.
        options: as its YAML has them; `{NAME}` in a text is the folder of an earlier step of the chain.
        before: keys of the chain's earlier steps, by name.
        folder_option: the option that takes the step's folder.
    """

    name: str
    verb: str
    options: dict[str, Any] = field(hash=False)
    before: dict[str, str] = field(hash=False)
    folder_option: str = "output_dir"

    @property
    def needs(self) -> list[str]:
        """Keys of the steps whose folders the options name."""
        text = json.dumps(self.options)
        return [key for name, key in self.before.items() if f"{{{name}}}" in text]

    @property
    def key(self) -> str:
        """A digest of all that decides the result."""
        parts = [self.verb, self.options, {name: key for name, key in self.before.items() if key in self.needs}]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def resolved(self, root: Path) -> dict[str, Any]:
        """The options with the folders of earlier steps and the step's own in `root`."""
        text = json.dumps(self.options | {self.folder_option: str(root / self.key)})
        for name, key in self.before.items():
            text = text.replace(f"{{{name}}}", str(root / key))
        return json.loads(text)


@dataclass(frozen=True)
class Chain:
    """The steps of one variant of a row with one seed."""

    row: str
    variant: str
    seed: int
    steps: tuple[Step, ...]

    @property
    def name(self) -> tuple[str, str, int]:
        """What identifies the chain in the results."""
        return self.row, self.variant, self.seed


def read_rows(names: list[str] | None = None, folder: Path = HERE / "rows") -> dict[str, dict[str, Any]]:
    """Rows by name, in the order of their files; all without `names`, else those whose names begin so.

    Raises:
        SystemExit: a name fits no row.
    """
    files = sorted(folder.glob("*.yaml"))
    chosen = [file for file in files if not names or any(file.stem.startswith(name) for name in names)]
    for name in names or []:
        if not any(file.stem.startswith(name) for file in files):
            raise SystemExit(f"error: no row begins with {name}: {', '.join(file.stem for file in files)}")
    return {file.stem: yaml.safe_load(file.read_text("utf-8")) for file in chosen}


def chains(row: str, content: dict[str, Any], tiny: bool = False) -> Iterator[Chain]:
    """The chains of a row, seed by seed; `tiny` ones have one seed and two steps, to see that all commands run."""
    bases = yaml.safe_load((HERE / "steps.yaml").read_text("utf-8"))
    if "reason" in content:  # why it is not run
        return
    for seed in range(1 if tiny else content["seeds"]):
        for variant, changes in content["variants"].items():
            names = (changes or {}).get("chain", content["chain"])
            yield Chain(row, variant, seed, tuple(chain_steps(names, content, changes or {}, bases, seed, tiny)))


def chain_steps(
    names: list[str],
    content: dict[str, Any],
    changes: dict[str, Any],
    bases: dict[str, Any],
    seed: int,
    tiny: bool = False,
) -> Iterator[Step]:
    """The steps of a chain: the shared step of each name, changed by the row and then by the variant."""
    before: dict[str, str] = {}
    for name in names:
        of_row, of_variant = dict(content.get("steps", {}).get(name, {})), dict(changes.get(name, {}))
        base = of_row.pop(LIKE, name)
        options = merged(copy.deepcopy(bases[of_variant.pop(LIKE, base)]), of_row)
        options = merged(options, of_variant)
        verb, folder = options.pop(VERB), options.pop(FOLDER_OPTION, "output_dir")
        if options.pop(SEEDED, True):
            options["seed"] = seed
        if tiny:
            options |= {key: value for key, value in TINY.items() if key in options}
        step = Step(name, verb, options, dict(before), folder)
        before[name] = step.key
        yield step


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Options with changes laid over them, level by level; null removes one."""
    result = dict(base)
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result
