"""README is one page in a reader's order, its numbers are those of other pages; all links lead somewhere."""

import configparser
import re
from pathlib import Path

import pytest
from page_blocks import ROOT, blocks

README = (ROOT / "README.md").read_text("utf-8")
RESULTS = (ROOT / "docs" / "results.md").read_text("utf-8")
MEMORY = (ROOT / "docs" / "guide" / "checkpoint.md").read_text("utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ORDER = ["Install", "Ask about an image", "Fine-tune on your data", "Why openpali", "Supported models", "Results"]
ORDER += ["Train from scratch", "Contributing", "Citation", "Licence"]


def section(title: str) -> str:
    """What stands below a heading."""
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def table(text: str) -> list[list[str]]:
    """Cells of the rows of all tables in a text, without heads."""
    rows = re.findall(r"^\| (.*) \|$(?!\n\|---)", text, re.MULTILINE)
    return [[cell.strip() for cell in row.split("|")] for row in rows]


def anchors(page: Path) -> set[str]:
    """Of the headings of a page, as GitHub names them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_extras_are_those_of_the_package():
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg", "utf-8")
    line = re.search(r'pip install "\.\[(.+)\]"  # more extras: (.+)', section("Install"))
    assert line
    given, more = line[1].split(","), line[2].split(", ")
    # what `predict --save`, the report and `openpali demo` need
    assert {"eval", "demo", "page"} == set(given)
    guide = (ROOT / "docs" / "guide" / "install.md").read_text("utf-8")
    listed = [row[0].strip("`") for row in table(guide) if row[0].startswith("`")]
    extras = set(setup["options.extras_require"]) - {"dev", "data36"}
    assert set(listed) == extras
    assert {*given, *more} == extras - {"docs"}


def test_readme_is_short_and_in_order():
    assert len(README.splitlines()) <= 150
    assert re.findall(r"^## (.+)$", README, re.MULTILINE) == ORDER
    assert len(re.findall(r"!\[", README)) == 1
    assert re.search(r"\*\*Limits\.\*\* No GPU, no released weights", section("Results").strip().split("\n\n")[0])


def test_what_fits_is_what_the_guide_says():
    """The guide's table is compared with its command in test_memory_page.py."""
    columns = {f"{size} GB": 3 + place for place, size in enumerate((16, 24, 48, 80))}
    guide = {tuple(row[:3]): row for row in table(MEMORY) if len(row) == 7}
    rows = table(section("Fine-tune on your data"))
    assert {row[0] for row in rows} == set(columns)
    for memory, model, size, adapter, examples in rows:
        assert guide[model, size, adapter][columns[memory]] == examples, (memory, model, size, adapter)
    assert "`openpali costs --table`" in section("Fine-tune on your data")


def test_every_number_of_the_readme_is_in_the_results():
    """A row has the numbers of a row of docs/results.md that names the same command."""
    for title in ("Why openpali", "Results"):
        rows = table(section(title))
        assert len(rows) >= 4
        for row in rows:
            _, *numbers, command = row
            assert command.startswith("`"), row
            assert command in RESULTS
            found = [line for line in RESULTS.splitlines() if all(is_in(number, line) for number in numbers)]
            assert found, row


def is_in(number: str, line: str) -> bool:
    """A number as a whole."""
    return bool(re.search(rf"(?<![\d.]){re.escape(number)}(?![\d.])", line))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", page.read_text("utf-8")):
        found = page.parent / target if target else page
        assert found.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(found), f"{page.name}: {target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_stages_are_started_by_their_verb(page):
    """`openpali VERB`, or `accelerate launch -m` on several GPUs, with the short names of configurations."""
    for block in blocks(page):
        for command in block.commands():
            assert not command.startswith("python -m openpali.recipes"), command
            assert "--config recipes/configs/" not in command, command
