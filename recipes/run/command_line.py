"""Command lines of the recipes: dataclasses filled from one YAML file and from `--key value` overrides."""

import argparse
import functools
import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, NamedTuple, get_type_hints

from transformers import HfArgumentParser, TrainingArguments
from transformers.utils.logging import disable_progress_bar

from openpali.data.files.config import ConfigError, as_dict, find_config, nearest, number, read_value, read_yaml
from openpali.data.files.renamed import current_options
from openpali.modeling import user_errors
from openpali.recipes.run.number_checks import check_numbers

NOT_GIVEN = object()


def command(main: Callable[..., Any]) -> Callable[..., Any]:
    """Let `main` report a mistake that its user can correct in one sentence, instead of a traceback."""

    @user_errors.command("error")
    @functools.wraps(main)
    def run(argv: list[str] | None = None) -> Any:
        # a bar for every checkpoint would hide the progress of the run
        disable_progress_bar()
        logging.getLogger("transformers.configuration_utils").addFilter(is_useful)
        return main(argv)

    return run


def is_useful(record: logging.LogRecord) -> bool:
    """False for warnings about SigLIP's default text configuration, whose token ids are out of range."""
    return "49406" not in record.getMessage() and "49407" not in record.getMessage()


def parse(
    classes: Sequence[type],
    argv: Sequence[str] | None = None,
    defaults: dict[str, Any] | None = None,
    overrides: dict[str, Any] | None = None,
) -> tuple[Any, ...]:
    """Fill dataclasses from `--config file.yaml` and from overrides behind it.

    `--source.size 64` reaches into a nested value. The last class must be a [`RunArguments`]; its `resolved` takes
    all values, which `save_config` writes.

    Args:
        classes: dataclasses; no two may share a field.
        argv: the command line without the program's name; `sys.argv[1:]` when left out.
        defaults: values of keys that neither the file nor the command line gives.
        overrides: values that replace the file's; those of the command line replace them.

    Raises:
        ConfigError: for a missing file, an unknown key, a value of the wrong type.
    """
    read = read_values(classes, argv, defaults, overrides)
    check_numbers(read.values)
    try:
        built = read.parser.parse_dict(read.values)
    except (ValueError, ImportError) as error:
        # Transformers' own checks, such as bf16 on a device that has none
        raise error if isinstance(error, ConfigError) else ConfigError(user_errors.explain(error)) from error
    built[-1].resolved = resolve(read.values, read.declared, classes[-1])
    return built


class Values(NamedTuple):
    """Values by key, before dataclasses are built from them.

    Attributes:
        values: of every key.
        given: keys that the file, the command line or the caller gives.
        declared: defaults of the dataclasses.
        parser: builds the dataclasses.
    """

    values: dict[str, Any]
    given: set[str]
    declared: dict[str, Any]
    parser: "Parser"


def read_values(
    classes: Sequence[type],
    argv: Sequence[str] | None = None,
    defaults: dict[str, Any] | None = None,
    overrides: dict[str, Any] | None = None,
) -> Values:
    """The values that `parse` builds dataclasses from; it takes the same arguments."""
    argv = list(sys.argv[1:] if argv is None else argv)
    config, argv = take_option(current_options(argv), "--config")
    known = known_keys(classes)
    values = (defaults or {}) | (read_yaml(find_config(config), known) if config else {}) | (overrides or {})
    nested, argv = take_nested(argv, known)
    parser = Parser(list(classes), allow_abbrev=False)  # pyright: ignore[reportArgumentType]
    parser.add_argument("--config", help="YAML file, or the name of a shipped one (pali3/nano-pretrain)")
    declared = {key: parser.get_default(key) for key in known}
    parser.set_defaults(**values)
    for action in parser._actions:
        # `--freeze` alone is an empty list, as `--freeze none`
        action.nargs = "*" if action.nargs == "+" or action.dest == "report_to" else action.nargs
    # in the namespace and not as defaults, which --help shows
    untouched = argparse.Namespace(**{key: NOT_GIVEN for key in known if key not in values})
    namespace, unknown = parser.parse_known_args(argv, untouched)
    if unknown:
        raise ConfigError(f"unknown argument {unknown[0]}{nearest(unknown[0].lstrip('-'), known)}")
    found = {key: value for key, value in vars(namespace).items() if key in known}
    given = {key for key, value in found.items() if value is not NOT_GIVEN} | {key for key, *_ in nested}
    found = {key: declared[key] if value is NOT_GIVEN else value for key, value in found.items()}
    for key, inner, value in nested:
        found[key] = set_nested(as_dict(found[key], key), inner, value)
    if "freeze" in found:
        found["freeze"] = frozen_components(found["freeze"])
    return Values(found, given, declared, parser)


def known_keys(classes: Sequence[type]) -> dict[str, tuple[Any, Any]]:
    """Field and type of every key that the dataclasses take."""
    known = {}
    for cls in classes:
        hints = get_type_hints(cls)
        known |= {f.name: (f, hints[f.name]) for f in fields(cls) if f.init}
    return known


class Parser(HfArgumentParser):
    """HfArgumentParser whose errors are one sentence, without two pages of usage."""

    def error(self, message: str) -> Any:
        """Called by argparse."""
        raise ConfigError(f"{message} (--help lists every argument)")


def take_option(argv: list[str], option: str) -> tuple[str | None, list[str]]:
    """Split `--option value` or `--option=value` off a command line; the last one counts."""
    value, rest, i = None, [], 0
    while i < len(argv):
        if argv[i] == option:
            if i + 1 == len(argv):
                raise ConfigError(f"{option} needs a value")
            value, i = argv[i + 1], i + 1
        elif argv[i].startswith(option + "="):
            value = argv[i].split("=", 1)[1]
        else:
            rest.append(argv[i])
        i += 1
    return value, rest


def take_nested(argv: list[str], known: dict) -> tuple[list[tuple[str, list[str], Any]], list[str]]:
    """Split `--key.inner value` off a command line, as (key, path below it, value)."""
    found, rest, i = [], [], 0
    while i < len(argv):
        name, _, value = argv[i].partition("=")
        if not (name.startswith("--") and "." in name):
            rest.append(argv[i])
            i += 1
            continue
        if "=" not in argv[i]:
            if i + 1 == len(argv):
                raise ConfigError(f"{name} needs a value")
            i, value = i + 1, argv[i + 1]
        key, *inner = name[2:].split(".")
        if key not in known:
            raise ConfigError(f"unknown argument {name}{nearest(key, known)}")
        found.append((key, inner, number(read_value(value, name))))
        i += 1
    return found, rest


def expand_mappings(argv: Sequence[str], keys: Sequence[str]) -> list[str]:
    """Replace `--task '{codec: X}'` by `--task.codec X`: a mapping without a name changes single options."""
    rest: list[str] = list(argv)
    for key in keys:
        value, others = take_option(rest, f"--{key}")
        changes = as_dict(value, key) if value else {}
        if value and "name" not in changes:
            added = [word for name, one in changes.items() for word in (f"--{key}.{name}", json.dumps(one))]
            rest = [*others, *added]
    return rest


def set_nested(tree: dict, path: list[str], value: Any) -> dict:
    """A copy of `tree` in which the value below `path` is `value`."""
    if len(path) == 1:
        return tree | {path[0]: value}
    inner = tree.get(path[0])
    return tree | {path[0]: set_nested(inner if isinstance(inner, dict) else {}, path[1:], value)}


def resolve(given: dict[str, Any], defaults: dict[str, Any], run_class: type) -> dict[str, Any]:
    """All values of our own fields, and those of Transformers' fields that were given or have a default of ours."""
    inherited = {f.name: f.default for f in fields(TrainingArguments)}
    ours = {f.name for f in fields(run_class) if f.name in inherited and f.default != inherited[f.name]}
    return {k: v for k, v in given.items() if k not in inherited or k in ours or v != defaults[k]}


def frozen_components(names: list[str]) -> list[str]:
    """The components that `freeze` names; `none` stands for no component.

    Raises:
        ConfigError: `none` beside a component.
    """
    if "none" in names and len(names) > 1:
        raise ConfigError(f"freeze: none cannot stand beside {names[0] if names[0] != 'none' else names[1]}; drop one")
    return [] if names == ["none"] else names
