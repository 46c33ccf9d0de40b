"""The page of what is supported names tests that exist, every stage, and the releases that setup.cfg admits."""

import ast
import configparser
import re
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "support.md").read_text("utf-8")
SETUP = configparser.ConfigParser(interpolation=None)
SETUP.read(ROOT / "setup.cfg", "utf-8")


def test_every_named_test_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGE)
    assert len(named) > 20
    for path, test in named:
        tree = ast.parse((ROOT / path).read_text("utf-8"))
        names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert not test or test in names, f"{path}::{test}"


def test_every_stage_has_its_row():
    stages = {path.stem for path in (ROOT / "recipes").glob("*.py") if "def main(" in path.read_text("utf-8")}
    assert stages == {stage for stage in stages if re.search(rf"^\|[^|]*`{stage}`", PAGE, re.MULTILINE)}
    assert len(stages) >= 7


def test_the_releases_are_the_bounds_of_setup():
    rows = dict(re.findall(r"^\| (\w+) \| ([\d.]+ \| [\d.]+) \|", PAGE, re.MULTILINE))
    required = [Requirement(line) for line in SETUP["options"]["install_requires"].strip().splitlines()]
    bounds = {requirement.name: requirement.specifier for requirement in required}
    for name in ("torch", "Transformers", "accelerate", "peft", "datasets"):
        oldest, newest = (Version(text) for text in rows[name].split(" | "))
        inside = bounds[name.lower()]
        assert inside.contains(oldest), name
        assert inside.contains(newest), name
        assert not inside.contains(Version(f"{oldest.major}.{oldest.minor - 1}.99")), name
        assert not inside.contains(Version(f"{newest.major}.{newest.minor + 1}")), name


def test_every_cell_is_a_test_or_says_what_is_not_held():
    said = ("not supported", "not tested", "the same test", "as `transfer`", "answers only", "`make test-engines`")
    tables = PAGE.split("## Stages and engines")[1]
    for row in re.findall(r"^\|(.+)\|$", tables, re.MULTILINE):
        cells = [cell.strip() for cell in row.split("|")]
        if "tests/" in row or "not " in row:
            assert [c for c in cells[1:] if not c.startswith(said) and "`tests/" not in c] == [], row
