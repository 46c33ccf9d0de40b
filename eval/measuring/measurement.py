"""Source, task and decoding of an evaluation, from the command line or from a transfer's YAML."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from openpali.data.files.config import as_dict, find_config, number
from openpali.data.sources import SOURCES
from openpali.modeling.auto import checkpoint_config

# characters of an option's text in messages
QUOTED = 200


@dataclass(frozen=True)
class Measurement:
    """Source, task and decoding of an evaluation.

    Attributes:
        source: name and options of the records' source.
        task: name and options of the task.
        num_beams: 1 is greedy.
        max_length: tokens of a prompt, for openpali's processors; all when None.
        batch_size: examples a batch; changes no score.
        seed: of the choices that the task draws.
        groups: labels of the examples by which they are scored as well, such as `age`.
    """

    source: dict[str, Any]
    task: dict[str, Any]
    num_beams: int = 1
    max_length: int | None = None
    batch_size: int = 32
    seed: int = 0
    groups: tuple[str, ...] = ()


def read_measurement(
    models: Sequence[str],
    config: str | None = None,
    task: str | None = None,
    task_options: str = "{}",
    source: str | None = None,
    split: str | None = None,
    num_beams: int | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    groups: str | None = None,
) -> Measurement:
    """Make a `Measurement`; arguments override the configuration.

    Args:
        models: whose resolution, where they share one, selects the configuration's block of that resolution.
        config: a transfer's YAML, or the name of a shipped one.
        task: name of a task.
        task_options: as JSON or YAML; they override the options of a configuration's task.
        source: see `read_source`.
        split: of the source; the test split of a configuration's source when left out.
        num_beams: the configuration's, else greedy, when left out.
        batch_size: likewise, else 32.
        seed: likewise, else 0.
        groups: labels with commas between them; the configuration's, else none, when left out.

    Raises:
        ValueError: something is missing or no mapping; `ConfigError` is one.
        OSError: there is no such file.
    """
    given = read_config(config, models) if config else {}
    if not (task or given.get("task")) or not (source or given):
        raise ValueError(
            "there is nothing to measure: give --config with a transfer's YAML, such as the config.yaml of a run's"
            " folder, or --task and --source"
        )
    options = read_mapping(task_options)
    task_spec = {"name": task, **options} if task else as_dict(given["task"], "task") | options
    source_spec = read_source(source) if source else config_source(given, str(config), split or "test")
    if source and split:
        source_spec["split"] = split
    # of a training configuration; evaluation does not augment
    source_spec.pop("augment", None)
    return Measurement(
        source=source_spec,
        task=task_spec,
        num_beams=num_beams or given.get("num_beams") or 1,
        max_length=given.get("max_length"),
        batch_size=batch_size or given.get("per_device_eval_batch_size") or 32,
        seed=given.get("seed") or 0 if seed is None else seed,
        groups=read_groups(groups if groups is not None else given.get("groups")),
    )


def read_groups(groups: str | list[str] | None) -> tuple[str, ...]:
    """Names of labels, of a text with commas or a list of texts. Raises ValueError for anything else."""
    names = groups.split(",") if isinstance(groups, str) else groups or []
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        raise ValueError(f"--groups takes labels with commas between them, such as age,gender, not {groups!r}")
    return tuple(dict.fromkeys("+".join(part.strip() for part in name.split("+")) for name in names))


def read_config(name: str, models: Sequence[str]) -> dict[str, Any]:
    """The keys of a transfer's YAML, overridden by its block for the models' resolution."""
    path = find_config(name)
    try:
        content = number(read_mapping(path.read_text(encoding="utf-8-sig")))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    sizes = {image_size(model) for model in models} if content.get("resolutions") else set()
    block = (content.get("resolutions") or {}).get(sizes.pop() if len(sizes) == 1 else None) or {}
    merged = {key: content.get(key, {}) | value if isinstance(value, dict) else value for key, value in block.items()}
    return content | merged


def image_size(model: str) -> int | None:
    """Side of a checkpoint's images in pixels; None where its configuration cannot be read or has no such key."""
    try:
        return checkpoint_config(model).vision_config.image_size
    except (OSError, ValueError, AttributeError):
        return None


def config_source(given: dict[str, Any], config: str, split: str) -> dict[str, Any]:
    """A split of a configuration's source.

    Raises:
        ValueError: it has no splits, and only its training run knows which records it sets aside.
    """
    spec = as_dict(given.get("source"), "source")
    if "split" not in spec:
        raise ValueError(f"the source of {config} has no split, so its test records are not known: give --source")
    return spec | {"split": split}


def read_source(text: str) -> dict[str, Any]:
    """The spec of a source: a .jsonl file, a .yaml or .json file with the spec, or the spec's text."""
    if text.endswith(".jsonl"):
        return {"name": "jsonl", "path": text}
    if text.endswith((".yaml", ".yml", ".json")):
        return read_source_file(text)
    if text not in SOURCES and os.path.isdir(text):
        raise ValueError(
            f"{text} is a folder: say what it holds, as in --source '{{name: custom, path: {text}, kind: detect,"
            " split: test}', or give --config with the config.yaml of the run that was trained on it"
        )
    return {"name": text} if text.isidentifier() else read_mapping(text)


def read_source_file(path: str) -> dict[str, Any]:
    """The spec of a source in a file. Raises ValueError where the file has something else, such as the data."""
    try:
        value = yaml.safe_load(Path(path).read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is neither JSON nor YAML in UTF-8 ({' '.join(str(error).split())})") from error
    if not isinstance(value, dict) or "name" not in value:
        kind = "coco" if isinstance(value, dict) and "annotations" in value else "custom"
        rest = "" if kind == "coco" else ", kind: detect"
        raise ValueError(
            f"{path} does not describe a source, for it has no name at its top. If it holds the data themselves, say"
            f" what they are: --source '{{name: {kind}, path: {path}{rest}}}'"
        )
    return value


def read_mapping(text: str) -> dict[str, Any]:
    """A mapping in JSON or YAML.

    Raises:
        ValueError: the text is something else.
    """
    quoted = text if len(text) <= QUOTED else f"{text[:QUOTED]}..."
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"neither JSON nor YAML: {quoted!r} ({' '.join(str(error).split())})") from error
    if not isinstance(value, dict):
        raise ValueError(f'expected options such as {{"name": "emoji", "split": "test"}}, not {quoted!r}')
    return value


def describe(spec: dict[str, Any]) -> str:
    """Name and options on one line."""
    options = ", ".join(f"{key} {value}" for key, value in spec.items() if key != "name")
    return f"{spec['name']} ({options})" if options else spec["name"]
