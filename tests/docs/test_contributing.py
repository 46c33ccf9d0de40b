"""CONTRIBUTING.md and AGENTS.md: their files and targets are there, and losses are compared as they say."""

import re

import pytest
from page_blocks import ROOT, blocks, run_command, run_python

from openpali.data.files.config import CONFIGS

PAGES = [ROOT / "CONTRIBUTING.md", ROOT / "AGENTS.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_the_page_names_is_there(page):
    text = page.read_text("utf-8")
    paths = set(re.findall(r"(?<![\w/.-])((?:\w[\w.-]*/)+(?:\w[\w.-]*)?)", re.sub(r"\]\([^)]*\)", "", text)))
    assert len(paths) > 15
    shown = {path for path in paths if not path.startswith("outputs/") and not (CONFIGS / f"{path}.yaml").is_file()}
    assert sorted(path for path in shown if not (ROOT / path).exists()) == []
    targets = set(re.findall(r"^(?:`?)make ([\w-]+)", text, re.MULTILINE))
    assert all(re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE) for target in targets)
    assert {"setup", "test", "lint"} <= targets


def test_tables_that_are_to_be_extended_are_there():
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    found = re.findall(r"`([A-Z]+)` in `([\w/.]+\.py)`", text)
    assert len(found) == 4
    assert all(re.search(rf"^{name}\b.*= \{{", (ROOT / path).read_text("utf-8"), re.MULTILINE) for name, path in found)


def test_losses_are_compared_as_the_page_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = blocks(ROOT / "CONTRIBUTING.md")
    commands = [line for block in shown for line in block.commands() if line.startswith("openpali ")]
    assert len(commands) == 2
    assert commands[0].replace("before", "after") == commands[1]
    for command in commands:
        run_command(command)
    (code,) = [block for block in shown if block.language == "python"]
    names: dict = {}
    run_python(code, names)
    assert names["numbers"]("before")
    log = tmp_path / "outputs" / "after" / "logs.jsonl"
    log.write_text(re.sub(r'"loss": (\d)', r'"loss": 1\1', log.read_text()))
    with pytest.raises(AssertionError):
        run_python(code, {})
