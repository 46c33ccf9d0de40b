"""`make encoders` trains both encoders alike and evaluates them; recipes and evaluation have tests of their own."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from openpali.data.files.config import CONFIGS
from openpali.data.sources import load_source
from openpali.scripts import encoders

PAGE = (Path(encoders.__file__).parents[1] / "docs" / "encoders.md").read_text("utf-8")


@pytest.fixture
def ran(monkeypatch, tmp_path):
    calls = []
    for name in ("contrastive", "classification", "build_emoji36"):
        monkeypatch.setattr(encoders, name, SimpleNamespace(main=lambda argv, name=name: calls.append((name, argv))))
    monkeypatch.setattr(encoders, "evaluate", lambda *args: calls.append(("evaluate", args)))
    monkeypatch.setattr(encoders, "default_folder", lambda: tmp_path / "emoji36")
    return calls


def test_the_images_are_built_once(ran, tmp_path, monkeypatch):
    monkeypatch.setattr(encoders.shutil, "which", lambda name: f"/usr/bin/{name}")
    encoders.main(["--folder", str(tmp_path / "out")])
    assert [name for name, _ in ran] == ["build_emoji36", "contrastive", "classification", "evaluate"]
    assert ran[-1][1] == (tmp_path / "out", encoders.EMOJI36)
    (tmp_path / "emoji36").mkdir()
    (tmp_path / "emoji36" / "build.json").write_text("{}")
    ran.clear()
    encoders.main(["--folder", str(tmp_path / "out")])
    assert [name for name, _ in ran] == ["contrastive", "classification", "evaluate"]


def test_without_npm_the_built_in_images_serve(ran, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(encoders.shutil, "which", lambda name: None)
    encoders.main(["--folder", str(tmp_path / "out")])
    assert "npm is missing" in capsys.readouterr().out
    options = dict(ran)
    source = options["contrastive"][options["contrastive"].index("--source") + 1]
    assert json.loads(source) == encoders.BUILT_IN["train"]
    assert "tr" in options["contrastive"]
    assert "tr" not in options["classification"]
    for name, spec in encoders.BUILT_IN.items():
        assert {"de", "zh"} <= set(load_source(spec)[0]["captions"]), name


def test_both_encoders_see_as_many_of_the_same_images():
    siglip, baseline = (
        yaml.safe_load((CONFIGS / "siglip" / f"{name}.yaml").read_text())
        for name in ("nano-36", "nano-36-classification")
    )
    same = ("source", "preset", "vision_config", "max_steps", "per_device_train_batch_size", "learning_rate")
    for key in (*same, "weight_decay", "schedule", "warmup_steps"):
        assert siglip[key] == baseline[key], key


def test_retrieval_is_compared_with_its_target(tmp_path, monkeypatch, capsys):
    def write_metrics(argv):
        folder = Path(argv[argv.index("--output") + 1])
        folder.mkdir(parents=True)
        scores = {"mean": {"image_to_text_recall_at_1": 0.03}, "chance": {"image_to_text_recall_at_1": 0.001}}
        (folder / "metrics.json").write_text(json.dumps({"retrieval": scores}))

    monkeypatch.setattr(encoders.encoders, "main", write_metrics)
    encoders.evaluate(tmp_path, encoders.EMOJI36)
    assert "3.0 %; 30 times chance (0.10 %); the target of 20 times is reached" in capsys.readouterr().out
    monkeypatch.setattr(encoders, "TARGET", 31)
    for name in ("retrieval", "classes"):
        (tmp_path / name / "metrics.json").unlink()
        (tmp_path / name).rmdir()
    encoders.evaluate(tmp_path, encoders.EMOJI36)
    assert "31 times is not reached" in capsys.readouterr().out
