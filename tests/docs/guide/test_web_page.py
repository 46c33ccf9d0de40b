"""The guide's page of web data: its commands run, and its tables name all steps and configurations."""

import re
from pathlib import Path

import page_folders as given
import yaml
from page_blocks import ROOT, blocks, run_command
from page_checks import installs
from raw_web import write_raw_web

from openpali.data.files.config import CONFIGS
from openpali.data.sources.webdataset import WebDataset
from openpali.scripts.web.running.plan import plan_step
from openpali.scripts.web.running.registry import STEPS

PAGE = ROOT / "docs" / "guide" / "web.md"
TEXT = PAGE.read_text("utf-8")


def test_what_the_page_shows_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_raw_web(Path("."), shards=2, size=14)
    Path("evaluation").rename("eval_images")
    given.siglip("google/siglip-base-patch16-224")
    configuration, _, source = (yaml.safe_load(block.text) for block in blocks(PAGE) if block.language == "yaml")
    Path("web.yaml").write_text(yaml.safe_dump(configuration))
    for command in (command for block in blocks(PAGE) for command in block.commands()):
        if command.startswith("pip "):
            installs(command)
        # two nodes are started in tests/scripts/web/test_web_pipeline.py
        elif not command.startswith("ray ") and "--ray_address" not in command:
            run_command(command)
    said = capsys.readouterr().out
    assert "samples kept" in said
    assert "1,000,000,000 pairs of 25 kB on 64 machines of 32 cores and 8 H100" in said
    made = Path("outputs/web")
    listed = re.findall(r"`([\w./]+)`", TEXT.split("`outputs/web` then has:")[1].split("A run that was stopped")[0])
    for name in ("shards/", "index/", "tables/", "counts.json", "report.html", "README.md", "skipped_records.jsonl"):
        assert name in listed
        assert (made / name).exists(), name
    spec = source["source"]
    assert list(WebDataset(spec["path"], label_models=spec["label_models"]).records())


def test_the_labels_have_these_options(tmp_path, monkeypatch):
    labels = next(yaml.safe_load(block.text) for block in blocks(PAGE) if "ocr" in block.text)
    for step in labels:
        # of models that are not here the options alone are looked at
        step = {key: value for key, value in step.items() if key not in ("model", "answer_model")}
        if step["name"] in ("ocr", "questions"):
            plan_step(1, step)


def test_the_tables_are_whole():
    rows = re.findall(r"^\| `([\w/-]+)` \|", TEXT, re.MULTILINE)
    assert rows[: len(STEPS)] == list(STEPS)
    assert sorted(rows[len(STEPS) :]) == sorted(f"web/{path.stem}" for path in (CONFIGS / "web").glob("*.yaml"))
