"""The page on the transfers names every one of them. Its commands are run by tests/docs/test_pages.py."""

import csv
import re
from pathlib import Path

import openpali.data

ROOT = Path(openpali.data.__file__).parents[1]
PAGE = (ROOT / "docs" / "transfers.md").read_text("utf-8")
ROWS = list(csv.DictReader((Path(__file__).parent / "rows.csv").open()))


def test_the_table_has_every_row_at_its_sizes():
    table = re.findall(r"^\| \[`(\w+)`\]\(\.\./(\S+)\) \|.*\| ([\d, ]+) \|", PAGE, re.MULTILINE)
    assert [(name, sizes) for name, _, sizes in table] == [
        (row["task"], row["resolutions"].replace("|", ", ")) for row in ROWS
    ]
    assert all((ROOT / path).is_file() for _, path, _ in table)
