"""Load checkpoints whole or not at all, with an error of one line for those that cannot be loaded.

Transformers fills missing weights with random ones, ignores unexpected ones, and only warns. The result is another
model, which must be neither trained nor measured.
"""

import argparse
import difflib
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from .user_errors import CheckpointError, one_line

SHOWN = 3
INCOMPLETE_HELP = "take a checkpoint that lacks weights or has others; missing ones are random"
# weights beside an image encoder: of a SigLIP, of a captioner, and the pooling head, which PaLI models leave out
BESIDE_THE_TOWER = (r"^text_model\.", r"^logit_(scale|bias)$", r"(^|\.)head\.", r"^classifier\.", r"^decoder\.")
POOLING_HEAD = r"^(vision_model\.)?head\."
# errors that Transformers, or a library that it calls, raises for a checkpoint that it cannot read
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError)


def load_checkpoint(
    kind: Any,
    name: str | Path,
    *,
    incomplete: bool = False,
    beside: Sequence[str] = (),
    fresh: str = "",
    **options: Any,
) -> PreTrainedModel:
    """Call `kind.from_pretrained` and check that the checkpoint has all weights of the model and no others.

    Args:
        kind: class of the model, or an Auto class.
        name: folder or Hub name.
        incomplete: accept any checkpoint: missing weights are random, others are left out, and a table lists them.
        beside: patterns of names that the checkpoint may have and the model lacks.
        fresh: pattern of the names of a part that may be missing as a whole, and is then initialised.
        **options: of `from_pretrained`.

    Raises:
        CheckpointError: it is missing, or cannot be read, or its weights are not the model's.
    """
    if isinstance(kind, type) and issubclass(kind, PreTrainedModel) and "config" not in options:
        check_kind(name, kind)
    with reading(name), without_report(not incomplete):
        loaded = kind.from_pretrained(name, output_loading_info=True, ignore_mismatched_sizes=True, **options)
    model, info = cast(tuple[PreTrainedModel, dict[str, Any]], loaded)
    if not incomplete:
        unexpected = [key for key in info["unexpected_keys"] if not any(re.search(one, key) for one in beside)]
        missing = set(info["missing_keys"])
        part = {key for key in model.state_dict() if fresh and re.search(fresh, key)}
        if part <= missing:
            missing -= part
        refuse_other_weights(name, type(model).__name__, missing, unexpected, info["mismatched_keys"])
    return model


def add_incomplete(parser: argparse.ArgumentParser) -> None:
    """Add the option `--incomplete_checkpoint` to a command."""
    parser.add_argument("--incomplete_checkpoint", action="store_true", help=INCOMPLETE_HELP)


def refuse_other_weights(
    name: str | Path, kind: str, missing: Iterable[str], unexpected: Iterable[str], mismatched: Iterable[Any]
) -> None:
    """Raise CheckpointError unless nothing is missing, unexpected, or of another shape."""
    other = sorted(f"{key} {list(there)} for {list(wanted)}" for key, there, wanted in mismatched)
    differences = [
        ("lacks {} weights", sorted(missing)),
        ("has {} weights that the model has not", sorted(unexpected)),
    ]
    differences.append(("has {} weights of another shape", other))
    parts = [f"{words.format(len(keys))} ({first_names(keys)})" for words, keys in differences if keys]
    if parts:
        raise CheckpointError(
            f"{name} {' and '.join(parts)} as {kind}: give the whole checkpoint, or --incomplete_checkpoint to take it"
            " with random weights in place of what is missing"
        )


def first_names(keys: Sequence[str]) -> str:
    """The first names of a list, for a message."""
    return ", ".join(keys[:SHOWN]) + (", ..." if len(keys) > SHOWN else "")


def check_kind(name: str | Path, kind: type[PreTrainedModel]) -> None:
    """Raise CheckpointError for a checkpoint of another model type than the class."""
    there, wanted = load_config(name).model_type, kind.config_class.model_type if kind.config_class else ""
    if there != wanted:
        raise CheckpointError(f"{name} is a model of the type {there}, and one of the type {wanted} is wanted")


def load_config(name: str | Path) -> PreTrainedConfig:
    """Configuration of a checkpoint. Raises CheckpointError when it is missing or cannot be read."""
    with reading(name):
        return AutoConfig.from_pretrained(name)


def load_tower(name: str, kind: Any, config: Any, **options: Any) -> PreTrainedModel:
    """Load the image encoder of a SigLIP or a captioner, or one that was saved by itself.

    Encoders of classification and of captioners have no pooling head. If `config` has one, it is initialised.

    Args:
        name: folder or Hub name.
        kind: class of the encoder.
        config: its configuration, as of `vision_config_of`.
        **options: of `from_pretrained`.
    """
    return load_checkpoint(kind, name, beside=BESIDE_THE_TOWER, fresh=POOLING_HEAD, config=config, **options)


def load_any(name: str, **options: Any) -> PreTrainedModel:
    """Load a model with the class of its configuration."""
    return load_checkpoint(AutoModel, name, **options)


@contextmanager
def reading(name: str | Path) -> Iterator[None]:
    """Turn every error inside, while a checkpoint is read, into a CheckpointError of one line."""
    try:
        yield
    except (CheckpointError, torch.OutOfMemoryError, ModuleNotFoundError):
        raise
    except _UNREADABLE as error:
        raise CheckpointError(why_unreadable(str(name), error)) from error


def why_unreadable(name: str, error: BaseException) -> str:
    """Describe why a checkpoint cannot be read, and the remedy."""
    if Path(name).is_dir():
        return f"{name} cannot be loaded: {shortened(error)}"
    causes = list(chain_of(error))
    if any(isinstance(one, GatedRepoError) for one in causes):
        page = f"https://huggingface.co/{name}"
        return f"{name} is gated: accept its licence on {page}, log in with `hf auth login`, or give a folder"
    if is_folder_name(name):
        return no_folder(name)
    if any(isinstance(one, RepositoryNotFoundError) for one in causes):
        return (
            f"there is neither a folder {name} here nor such a repository on the Hub: check the spelling, log in with"
            " `hf auth login` if it is private, or give a folder"
        )
    offline = (LocalEntryNotFoundError, HfHubHTTPError, ConnectionError, TimeoutError)
    if any(isinstance(one, offline) or "connect" in str(one).lower() for one in causes):
        return (
            f"there is no folder {name} here, and the Hub cannot be reached for it: check the spelling and the"
            " connection, or give a folder"
        )
    return f"{name} cannot be loaded: {shortened(error)}"


def chain_of(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def is_folder_name(name: str) -> bool:
    """Whether a name looks like a folder and not like `owner/name` of the Hub."""
    path = Path(name)
    near = path.parent != Path(".") and path.parent.is_dir()
    marked = path.is_absolute() or name.startswith((".", "~", "outputs/")) or name.count("/") != 1
    return marked or near or path.exists()


def no_folder(name: str) -> str:
    """The message that there is no folder of this name, with the most similar one."""
    path = Path(name)
    if path.is_file():
        return f"{name} is a file: give the folder of a checkpoint"
    there = [one.name for one in path.parent.iterdir() if one.is_dir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, there, 1)
    remedy = f"did you mean {path.parent / close[0]}?" if close else "check the path, or give another one"
    return f"there is no folder {name}: {remedy}"


def shortened(error: BaseException, most: int = 300) -> str:
    """The text of an error on one line, cut when it is long."""
    # Transformers' advice for names of the Hub, which it gives for folders too
    text = one_line(error).partition(" Checkout 'https")[0].partition(" You can update Transformers")[0]
    if isinstance(error, KeyError):
        text = f"{text} is missing or unknown in it"
    return text if len(text) <= most else f"{text[:most]}..."


@contextmanager
def without_report(quiet: bool = True) -> Iterator[None]:
    """Suppress Transformers' table of missing and unexpected weights, which an error of one line replaces."""
    logger = logging.getLogger("transformers.modeling_utils")

    def wanted(record: logging.LogRecord) -> bool:
        return not (quiet and "LOAD REPORT" in record.getMessage())

    logger.addFilter(wanted)
    try:
        yield
    finally:
        logger.removeFilter(wanted)
