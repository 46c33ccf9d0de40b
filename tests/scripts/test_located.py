"""`make located`: its stages follow one another, and scores are compared with targets. Recipes have tests too."""

from types import SimpleNamespace

import pytest

from openpali.scripts import located


@pytest.fixture
def ran(monkeypatch):
    calls = []
    for stage in ("contrastive", "dense", "pretrain", "transfer", "mask_vqvae"):
        recipe = SimpleNamespace(main=lambda argv, stage=stage: calls.append((stage, argv)))
        monkeypatch.setattr(located, stage, recipe)
    monkeypatch.setattr(located, "cache_drawings", lambda: None)
    monkeypatch.setattr(located, "report", lambda *args: calls.append(("report", args)))
    monkeypatch.setattr(located, "load_codec", lambda name: None)
    return calls


def test_every_stage_starts_from_the_one_before(ran, tmp_path):
    located.main(["--folder", str(tmp_path), "--codec", "some/codec", "--scenes", "7"])
    assert [stage for stage, _ in ran] == ["contrastive", "dense", "pretrain", "transfer", "transfer", "report"]
    options = [dict(zip(argv[::2], argv[1::2], strict=True)) for _, argv in ran[:-1]]
    outputs = [option["--output_dir"] for option in options]
    starts = [option.get("--model", option.get("--vision_checkpoint")) for option in options]
    assert starts == [None, outputs[0], outputs[1], outputs[2], outputs[2]]
    assert len(set(outputs)) == 5
    assert '"some/codec"' in options[-1]["--task"]
    assert ran[-1][1] == (tmp_path, "some/codec", 7)


def test_a_missing_default_codec_is_trained_and_any_other_named_before_an_hour_is_lost(ran, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    located.main(["--folder", str(tmp_path)])
    assert ran[0] == ("mask_vqvae", ["--config", "mask_vqvae/builtin"])
    ran.clear()

    def missing(name):
        raise ValueError(f"there is no mask codec at {name}")

    monkeypatch.setattr(located, "load_codec", missing)
    with pytest.raises(SystemExit, match="error: there is no mask codec at ./none"):
        located.main(["--folder", str(tmp_path), "--codec", "./none"])
    assert not ran


def test_comparison_with_targets():
    summary = {"detect": {"metrics": {"f1": 0.55}, "blank_images": {"f1": 0.01}}}
    assert located.compare_with_target("detect", "f1", 0.5, summary).endswith(
        "0.010 on blank images; the target 0.5 is reached"
    )
    assert located.compare_with_target("detect", "f1", 0.6, summary).endswith("0.6 is missed by 0.050")
