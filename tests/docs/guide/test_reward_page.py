"""The guide's page of the reward: its commands run in their order, and its options are the recipe's."""

import dataclasses
import re
from pathlib import Path

import page_folders as given
from page_blocks import ROOT, blocks, run_command

from openpali.recipes.rewards.arguments import RewardArguments
from openpali.recipes.rewards.parts import DUPLICATES, LENGTH, MATCH, SCORE

PAGE = ROOT / "docs" / "guide" / "reward.md"
TEXT = PAGE.read_text("utf-8")


def test_what_the_page_shows_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("openpali.eval.scoring.caption_tokenizer.shutil.which", lambda name: None)
    # found before the one that ships
    given.paligemma("paligemma-nano")
    given.coco("shapes/annotations.json", "shapes/images")
    for block in blocks(PAGE):
        for command in block.commands():
            run_command(command)
    said = capsys.readouterr().out
    assert said.count("Reward: 1 match - 0.3 duplicates") == 3
    assert "Reward: 1 score - 0.5 duplicates" in said
    assert "n-grams weigh by the captions of 4 training examples" in said
    assert "Left out as repeated: " in said
    assert "gives no gradient" in said
    assert Path("outputs/reward-detect/samples.jsonl").exists()


def test_the_tables_name_the_parts_and_their_defaults():
    parts = re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE)
    assert parts == [SCORE, MATCH, DUPLICATES, LENGTH]
    defaults = {one.name: one.default for one in dataclasses.fields(RewardArguments)}
    for options, told in re.findall(r"^\| `(--[^|]+)` \| `?(\w+)[^|]*\|", TEXT, re.MULTILINE):
        name = re.findall(r"--(\w+)", f"--{options}")[0]
        assert float(told) == defaults[name] if told.isdigit() else told == defaults[name], options
    weight = re.search(r"`--confidence_weight`, ([\d.]+)", TEXT)
    assert weight
    assert float(weight[1]) == defaults["confidence_weight"]
