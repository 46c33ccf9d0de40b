"""`make nano`: every stage starts from the one before, in both families. The recipes have tests of their own."""

from types import SimpleNamespace

import pytest

from openpali.data.files.config import find_config
from openpali.data.sources import load_source
from openpali.data.tasks import load_task
from openpali.scripts import nano
from openpali.scripts.chains.stage_report import SCENES


@pytest.fixture
def ran(monkeypatch):
    calls = []
    for stage in ("contrastive", "pretrain", "transfer"):
        recipe = SimpleNamespace(main=lambda argv, stage=stage: calls.append((stage, argv)))
        monkeypatch.setattr(nano, stage, recipe)
    monkeypatch.setattr(nano, "cache_drawings", lambda: None)
    monkeypatch.setattr(nano, "report", lambda folder: calls.append(("report", folder)))
    return calls


def test_every_stage_starts_from_the_one_before(ran, tmp_path):
    nano.main(["--folder", str(tmp_path)])
    family = ["pretrain", "pretrain", "transfer"]
    assert [stage for stage, _ in ran] == ["contrastive", *family, *family, "report"]
    options = [dict(zip(argv[::2], argv[1::2], strict=True)) for _, argv in ran[:-1]]
    outputs = [option["--output_dir"] for option in options]
    starts = [option.get("--model", option.get("--vision_checkpoint")) for option in options]
    assert starts == [None, outputs[0], outputs[1], outputs[2], outputs[0], outputs[4], outputs[5]]
    assert len(set(outputs)) == 7
    assert all(find_config(option["--config"]).is_file() for option in options)


@pytest.mark.parametrize("family", list(nano.FAMILIES))
def test_the_report_has_every_stage(family):
    rows = nano.report_rows(family)
    assert {row.checkpoint for row in rows} == {f"{family}-{stage}" for stage in ("stage1", "stage2", "transfer")}
    for row in rows:
        record = load_source(SCENES | row.scenes | {"split": "test", "length": 1})[0]
        assert record["image"].size == ((64, 64) if "stage 1" in row.title else (128, 128))
        load_task(row.task)


def test_the_report_has_the_score_of_stage_0(tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(nano, "report_stages", lambda *args: calls.append(args))
    monkeypatch.setattr(nano, "read_best", lambda folder: {"value": 0.756} if folder.name == "contrastive" else None)
    nano.report(tmp_path)
    assert "75.6 % of the validation scenes" in capsys.readouterr().out
    assert len(calls[0][1]) == 12
