"""The page of speed shows what the benchmarks wrote, and `make bench-check` judges by its floors."""

import json
import sys

import pytest
import yaml
from page_blocks import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import check_floors  # noqa: E402

PAGE = (ROOT / "docs" / "evidence" / "speed.md").read_text("utf-8")
RESULTS = (ROOT / "benchmarks" / "results" / "two-cpu-cores.jsonl").read_text("utf-8")
ROWS = [json.loads(line) for line in RESULTS.splitlines()]


def test_every_ratio_of_the_page_is_one_that_was_measured():
    shown = 0
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("| ") or cells[0] == "case":
            continue
        case, against, *values = cells
        # memory stands first
        ordered = sorted(ROWS, key=lambda row: row["unit"] != "GB")
        measured = [f"{row['times']:,.2f}" for row in ordered if (row["case"], row["against"]) == (case, against)]
        assert measured == values[1::2], line
        shown += 1
    assert shown > 10


def test_every_command_and_alternative_of_the_floors_exists():
    for entry in yaml.safe_load((ROOT / "benchmarks" / "floors.yaml").read_text()):
        text = (ROOT / "benchmarks" / f"{entry['command'].split()[0]}.py").read_text("utf-8")
        for floor in entry["floors"]:
            assert f'"{floor["against"]}"' in text
            assert floor["unit"] in text


@pytest.mark.parametrize(("times", "word", "status"), [(2.1, "ok", 0), (1.9, "BELOW", 1)])
def test_a_ratio_below_its_floor_ends_with_an_error(monkeypatch, capsys, times, word, status):
    rows = [{"case": "record 1004000", "against": "reading what lies before", "unit": "CPU s", "times": times * 150}]
    monkeypatch.setattr(check_floors, "measured", lambda command: rows)
    assert check_floors.main(["stream_resume"]) == status
    assert capsys.readouterr().out.startswith(word)


def test_a_result_that_is_not_there_is_an_error(monkeypatch, capsys):
    monkeypatch.setattr(check_floors, "measured", lambda command: [])
    assert check_floors.main(["stream_resume"]) == 1
    assert "has no such result" in capsys.readouterr().out
