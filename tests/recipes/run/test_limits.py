"""Limits that leave nothing of a text, or nothing to do, are refused before a run; a batch without labels ends it."""

import pytest
import tiny_run as runs
import torch
from custom_files import class_folders
from tiny_adapters import save_checkpoint

from openpali.data.collator import Collator
from openpali.data.files.config import ConfigError
from openpali.recipes import classification, contrastive, denoise, dense, pretrain, transfer
from openpali.recipes.training.loss_guard import RunStopped


@pytest.mark.parametrize("value", ["0", "-1"])
@pytest.mark.parametrize(
    "key", ["max_length", "suffix_max_length", "pack_length", "test_limit", "eval_limit", "num_beams"]
)
def test_a_transfer_refuses_limits_below_one(key, value, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    line = ["--model", str(tmp_path), "--data", "my.jsonl", "--output_dir", str(tmp_path / "run"), "--use_cpu", "true"]
    with pytest.raises(SystemExit, match=f"error: {key}={value}: it is at least 1; leave it out"):
        transfer.main([*line, f"--{key}", value])
    assert not (tmp_path / "run").exists()


LINE = "{caption: {task: {name: caption}, weight: 1, suffix_max_length: 0}}"


@pytest.mark.parametrize(
    ("recipe", "argv", "named"),
    [
        (pretrain, ["--mixture", LINE], "mixture.caption.suffix_max_length=0"),
        (pretrain, ["--mixture", LINE.replace(", suffix_max_length: 0", ""), "--max_length", "0"], "max_length=0"),
        (contrastive, ["--text_length", "0"], "text_length=0"),
        (denoise, ["--max_length", "0"], "max_length=0"),
        (classification, ["--most_classes", "0"], "most_classes=0"),
        (dense, ["--model", "x", "--names_records", "0"], "names_records=0"),
        (contrastive, ["--per_device_train_batch_size", "0"], "per_device_train_batch_size=0"),
        (dense, ["--model", "x", "--num_train_epochs", "0"], "num_train_epochs=0.0: nothing would be trained"),
    ],
)
def test_every_stage_refuses_limits_below_one(recipe, argv, named, tmp_path):
    with pytest.raises(SystemExit, match=f"error: {named}"):
        recipe.main(["--output_dir", str(tmp_path / "run"), "--use_cpu", "true", *argv])
    assert not (tmp_path / "run").exists()


def test_tokens_of_answers_are_at_least_one(tiny_tokenizer, tmp_path):
    checkpoint = save_checkpoint("pali3", tiny_tokenizer, tmp_path / "checkpoint")
    data = class_folders(tmp_path / "data", 4)
    line = ["--model", str(checkpoint), "--data", str(data), "--kind", "classify", "--use_cpu", "true"]
    with pytest.raises(SystemExit, match="error: task.max_new_tokens=0: it is at least 1"):
        transfer.main([*line, "--output_dir", str(tmp_path / "run"), "--task.max_new_tokens", "0"])


@pytest.mark.parametrize(("key", "value"), [("max_bad_share", "2"), ("label_smoothing", "1")])
def test_shares_are_shares(key, value, tmp_path):
    with pytest.raises(SystemExit, match=f"error: {key}={float(value)}: it is"):
        transfer.main(["--model", "x", "--data", "y", "--output_dir", str(tmp_path), f"--{key}", value])


@pytest.mark.parametrize("key", ["max_length", "suffix_max_length"])
def test_a_collator_refuses_them_too(key, tiny_processor):
    with pytest.raises(ValueError, match=f"{key}=0: at least 1 token, or None"):
        Collator(tiny_processor, **{key: 0})


def test_a_batch_without_labels_ends_the_run(monkeypatch, tmp_path):
    def unlabelled(items):
        batch = whole(items)
        return batch | {"labels": torch.full_like(batch["labels"], -100)}

    whole = runs.collate
    monkeypatch.setattr(runs, "collate", unlabelled)
    with pytest.raises(RunStopped, match="step 1: no token of this batch has a label to train on"):
        runs.tiny_run(output_dir=str(tmp_path))
    assert issubclass(RunStopped, ConfigError)
    assert not (tmp_path / "model.safetensors").exists()
