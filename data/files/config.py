"""Find configuration files, and convert their values to the types that dataclasses declare."""

import difflib
import types
from dataclasses import Field
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from openpali.data.files.renamed import CONFIGS as RENAMED_CONFIGS
from openpali.data.files.renamed import current, current_keys, current_spec
from openpali.modeling.user_errors import UserError

CONFIGS = Path(__file__).parents[2] / "recipes" / "configs"


class ConfigError(UserError, ValueError):
    """An error in a configuration or on the command line; the message names the place and the remedy."""


def as_dict(value: dict | str | None, key: str) -> dict[str, Any]:
    """The mapping of a nested option: from YAML, or as text from the command line (`{name: emoji, size: 64}`)."""
    parsed = read_value(value, key) if isinstance(value, str) else value
    if parsed is None or isinstance(parsed, dict):
        values = {str(k): number(v) for k, v in (parsed or {}).items()}
        return current_spec(values) if key in ("source", "task") else values
    raise ConfigError(f"{key} must be a mapping, as in {{name: value}}, not {value!r}")


def read_value(text: str, key: str) -> Any:
    """Parse a text of the command line as YAML. Raises ConfigError."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{key}: {text!r} is not YAML ({reason}): put quotation marks around texts") from error


def number(value: Any) -> Any:
    """Convert texts such as 1e-3, which YAML does not read as numbers, at any depth."""
    if isinstance(value, dict):
        return {key: number(item) for key, item in value.items()}
    if isinstance(value, list):
        return [number(item) for item in value]
    if isinstance(value, str) and value[:1] in "+-.0123456789" and "e" in value.lower():
        try:
            return float(value)
        except ValueError:
            return value
    return value


def find_config(name: str) -> Path:
    """The path of a file or a shipped one (`pali3/nano-pretrain`, `recipes/configs/pali3/nano-pretrain.yaml`).

    Raises:
        ConfigError: no such file; the message has the nearest shipped one.
    """
    shipped_name = name.removeprefix("recipes/configs/")
    if not Path(name).is_file():
        shipped_name = current(shipped_name, RENAMED_CONFIGS)
    for path in (Path(name), CONFIGS / shipped_name, CONFIGS / f"{shipped_name}.yaml"):
        if path.is_file():
            return path
    shipped = {p.relative_to(CONFIGS).with_suffix("").as_posix(): p for p in CONFIGS.glob("*/*.yaml")}
    raise ConfigError(f"no configuration file {name}{nearest(shipped_name.removesuffix('.yaml'), shipped)}")


def read_yaml(path: Path, known: dict[str, tuple[Field, Any]]) -> dict[str, Any]:
    """Keys and values of a configuration file, as the types that the dataclasses declare.

    Raises:
        ConfigError: an unknown key or a wrong type; the message has the nearest key or the expected type.
    """
    try:
        content = yaml.safe_load(path.read_text("utf-8-sig")) or {}
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold lines of the form key: value")
    return typed(content, known, str(path))


def typed(content: dict[Any, Any], known: dict[str, tuple[Field, Any]], where: str) -> dict[str, Any]:
    """The values as the types that the dataclasses declare.

    Raises:
        ConfigError: an unknown key or a wrong type; the message has the nearest key or the expected type.
    """
    content = current_keys(content)
    for key in content:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}{nearest(str(key), known)}")
    return {key: coerce(value, known[key][1], f"{where}: {key}") for key, value in content.items()}


def nearest(name: str, known: dict) -> str:
    """A hint for a misspelt name: the nearest known name."""
    matches = difflib.get_close_matches(name.replace("-", "_"), known, n=1, cutoff=0.4)
    return f"; did you mean {matches[0]!r}?" if matches else f"; known are {', '.join(sorted(known)[:20])}"


def coerce(value: Any, hint: Any, where: str) -> Any:
    """Convert a value to the declared type.

    Raises:
        ConfigError: the value cannot be converted.
    """
    value = number(value)
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if value is None and (type(None) in options or Any in options):
        return None
    amount = value if isinstance(value, int | float) and not isinstance(value, bool) else None
    for option in options:
        kind = get_origin(option) or option
        if isinstance(value, bool) and kind is Literal and {"on", "off"} <= {*get_args(option)}:
            # YAML reads these two words as true and false
            return "on" if value else "off"
        if kind is Any or kind is Literal and value in get_args(option):
            return value
        if kind in (bool, dict, list, str) and isinstance(value, kind):
            return value
        if amount is not None and kind is float:
            return float(amount)
        if amount is not None and kind is int and amount == round(amount):
            return round(amount)
    if amount is not None and str in options:
        return str(value)
    raise ConfigError(f"{where} must be {describe(options)}, not {value!r}")


def describe(options: tuple) -> str:
    """The types of a field in words, for messages."""
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false", dict: "a mapping"}
    names = []
    for option in options:
        if get_origin(option) is Literal:
            names.append("one of " + ", ".join(map(str, get_args(option))))
        elif get_origin(option) is list:
            names.append("a list")
        elif option is not type(None):
            names.append(words.get(option, str(option)))
    return " or ".join(dict.fromkeys(names))
