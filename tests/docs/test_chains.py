"""The chains of `make demo`, `nano` and so on, as they are but for a single step of each stage."""

import importlib
import json
import shlex
from pathlib import Path

import page_folders as given
import pytest
from page_blocks import QUICK, as_words, started

from openpali.data.sources import load_source
from openpali.scripts import demo, demo_from_scratch, nano, nano_web_chain

SCENES = 2
# chain: what it leaves besides its report
CHAINS = {
    "demo": ["german", "images"],
    "demo_from_scratch": ["contrastive", "pretrain", "transfer", "pictures"],
    "nano": ["contrastive", *(f"{family}-{stage}" for family in nano.FAMILIES for stage in ("stage1", "transfer"))],
    "located": ["contrastive", "dense", "located", "detect", "refer"],
    "encoders": ["contrastive", "classification", "retrieval", "classes"],
}


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """Every stage takes one step, and two scenes are measured."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("openpali.eval.scoring.caption_tokenizer.shutil.which", lambda name: None)
    for name, options in QUICK.items():
        module, words = importlib.import_module(f"openpali.{name}"), as_words(options)
        monkeypatch.setattr(module, "main", lambda argv, main=module.main, words=words: main([*argv, *words]))
    monkeypatch.setattr(demo, "TEST_SCENES", SCENES)
    monkeypatch.setattr(demo_from_scratch, "TEST_SCENES", SCENES)
    monkeypatch.setattr(nano, "TEST_SCENES", SCENES)


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_runs_from_its_first_stage_to_its_report(name, quick, tmp_path, monkeypatch):
    module, arguments = started(f"python -m openpali.scripts.{name}")
    if name == "located":
        given.codec("outputs/mask-vqvae")
        arguments = ["--scenes", str(SCENES)]
    if name == "encoders":
        monkeypatch.setenv("OPENPALI_CACHE", str(tmp_path / "cache"))
        given.names_in_36_languages()
    importlib.import_module(module).main(arguments)
    folder = Path("outputs", name.replace("_", "-"))
    assert set(CHAINS[name]) <= {path.name for path in folder.iterdir()}
    for stage in CHAINS[name]:
        log = folder / stage / "logs.jsonl"
        steps = [json.loads(row)["step"] for row in log.read_text().splitlines()] if log.exists() else []
        assert max(steps, default=1) == 1, stage
    reports = ["retrieval/report.html", "classes/report.html"] if name == "encoders" else ["report.html"]
    assert all((folder / report).is_file() for report in reports)


def test_the_demo_ends_with_questions_about_what_its_images_show(tmp_path):
    first, second = (shlex.split(line) for line in demo.suggestions(tmp_path, "tuned"))
    record = load_source(demo.OF_TWO)[1]
    assert first[-1] in {f"detect {item['concept']}" for item in record["objects"]}
    assert (tmp_path / "one.png").is_file()
    assert second[2:] == ["tuned", str(tmp_path / "one.png"), second[-1]]
    assert second[-1].startswith("answer de ")


def test_the_chain_of_the_nano_web_runs_from_raw_shards_to_what_stage_1_names(quick, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setattr(nano_web_chain, "TEST_SCENES", SCENES)
    nano_web_chain.main(["--samples", "60"])
    folder = Path("outputs/web")
    assert {"report.html", "README.md", "nano_scores.json"} <= {path.name for path in (folder / "made").iterdir()}
    assert set(json.loads((folder / "naming.json").read_text())) == set(nano_web_chain.SETS)
