"""Recognise folders that a run wrote, and hidden files, which are not data."""

import os
from pathlib import Path

# files of a run, of its checkpoints, and of saved models and adapters
_SIGNS = ("data_check.json", "trainer_state.json", "training_args.bin", "adapter_config.json", "model.safetensors")
CONFIG_FILE = "config.yaml"
CONFIG_HEADER = "# The resolved configuration of this run. What it leaves out has its default.\n"


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run, or holds a saved model."""
    if any((folder / name).is_file() for name in _SIGNS):
        return True
    config = folder / CONFIG_FILE
    try:
        with config.open(encoding="utf-8", errors="replace") as file:
            return file.readline() == CONFIG_HEADER
    except OSError:
        return False


def runs_below(folder: Path) -> set[Path]:
    """Folders of runs in a folder, at any depth; of nested runs the outer one."""
    found: set[Path] = set()
    for place, below, _ in os.walk(folder):
        runs = [name for name in below if is_run(Path(place) / name)]
        found |= {Path(place) / name for name in runs}
        below[:] = [name for name in below if name not in runs and not is_hidden(name)]
    return found


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden: `.ipynb_checkpoints`, or `._a.png` and `__MACOSX` of macOS."""
    return name.startswith(".") or name == "__MACOSX"
