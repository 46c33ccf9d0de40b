"""The page on the transfers names every one of them, and its commands are of files and options that exist."""

import csv
import re
import shlex
from pathlib import Path

import openpali.data
from openpali.recipes.config_file import find_config
from openpali.recipes.transfer import CLASSES

ROOT = Path(openpali.data.__file__).parents[1]
PAGE = (ROOT / "docs" / "transfers.md").read_text("utf-8")
ROWS = list(csv.DictReader((Path(__file__).parent / "rows.csv").open()))


def test_the_table_has_every_row_at_its_sizes():
    table = re.findall(r"^\| \[`(\w+)`\]\(\.\./(\S+)\) \|.*\| ([\d, ]+) \|", PAGE, re.MULTILINE)
    assert [(name, sizes) for name, _, sizes in table] == [
        (row["task"], row["resolutions"].replace("|", ", ")) for row in ROWS
    ]
    assert all((ROOT / path).is_file() for _, path, _ in table)


def test_its_commands_are_of_what_there_is():
    commands = [shlex.split(line) for line in re.search(r"```\n(.*?)```", PAGE, re.DOTALL)[1].splitlines()]
    known = {name for cls in CLASSES for name in cls.__dataclass_fields__}
    for words in commands:
        find_config(words[words.index("--config") + 1])
        options = [word[2:] for word in words if word.startswith("--")]
        assert set(options) <= known | {"config", "output"}
    assert len(commands) == 4
