"""The small checkpoints that ship in the package, by name.

`nano` and `pali3-nano` are a PaLI-3, `paligemma-nano` is a PaliGemma; `make nano-release` trains both. A folder of the
same name in the working directory comes first.
"""

from pathlib import Path

FOLDER = Path(__file__).with_name("nano")
SHIPPED = {"nano": "pali3-nano", "pali3-nano": "pali3-nano", "paligemma-nano": "paligemma-nano"}


def shipped(name: str | Path) -> str:
    """The folder of a shipped checkpoint; any other name as it is."""
    folder = SHIPPED.get(str(name))
    return str(name) if folder is None or Path(name).is_dir() else str(FOLDER / folder)
