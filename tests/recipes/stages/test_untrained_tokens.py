"""A fine-tuning says before its first step that its checkpoint does not know the tokens of its answers."""

import json

import pytest
import torch
from custom_files import class_folders, coco
from tiny_adapters import save_checkpoint

from openpali.modeling.auto import load_answering
from openpali.recipes import transfer
from openpali.recipes.start.token_rows import location_sines

QUICK = ["--use_cpu", "true", "--tensorboard", "false", "--max_steps", "2", "--eval_steps", "1", "--eval_limit", "2"]
QUICK += ["--test_limit", "2", "--task.max_new_tokens", "12", "--per_device_train_batch_size", "2"]


@pytest.fixture(scope="module")
def random_start(tmp_path_factory, tiny_tokenizer):
    return save_checkpoint("paligemma", tiny_tokenizer, tmp_path_factory.mktemp("random"))


@pytest.fixture(scope="module")
def trained_start(tmp_path_factory, tiny_tokenizer):
    """Near locations are alike, as after training."""
    folder = save_checkpoint("paligemma", tiny_tokenizer, tmp_path_factory.mktemp("trained"))
    model = load_answering(folder, dtype=torch.float32)
    table = model.get_input_embeddings().weight
    ids = tiny_tokenizer.convert_tokens_to_ids([f"<loc{i:04d}>" for i in range(1024)])
    table.data[ids] += 0.2 * location_sines(table.shape[1])
    model.save_pretrained(folder)
    return folder


def told(capsys, checkpoint, data, kind, folder, *options):
    line = ["--model", str(checkpoint), "--data", str(data), "--kind", kind, "--output_dir", str(folder)]
    transfer.main([*line, *QUICK, *options])
    return capsys.readouterr().out


def warnings_of(out):
    return [line for line in out.splitlines() if line.startswith("Warning: detect")]


def test_boxes_from_random_rows(random_start, tmp_path, capsys):
    out = told(capsys, random_start, coco(tmp_path / "d", 20), "detect", tmp_path / "run")
    first, zero = warnings_of(out)
    assert "the location tokens are untrained (rows are random, independent values) in" in first
    assert (
        "Start from a checkpoint that was pretrained with boxes and masks, such as google/paligemma2-3b-pt-224"
        in first
    )
    assert out.index(first) < out.index("step 1/2")
    assert "after 1 of 2 steps. Likely reason: the location tokens are untrained" in zero


@pytest.mark.adapters
def test_adapters_do_not_train_the_rows(random_start, tmp_path, capsys):
    out = told(capsys, random_start, coco(tmp_path / "d", 20), "detect", tmp_path / "run", "--peft", "lora")
    assert f"in {random_start}, and lora does not train their rows. Start from" in warnings_of(out)[0]


def test_a_start_that_knows_locations_and_a_task_without_them(random_start, trained_start, tmp_path, capsys):
    out = told(capsys, trained_start, coco(tmp_path / "d", 20), "detect", tmp_path / "run")
    assert not [line for line in warnings_of(out) if "untrained" in line]
    out = told(capsys, random_start, class_folders(tmp_path / "c"), "classify", tmp_path / "other")
    assert "untrained" not in out


def test_each_validation_shows_two_predictions_beside_their_references(random_start, tmp_path, capsys):
    out = told(capsys, random_start, class_folders(tmp_path / "c"), "classify", tmp_path / "run")
    shown = [line for line in out.splitlines() if line.startswith("  classify  ")]
    assert len(shown) == 4
    assert all(" predicted " in line and " reference " in line for line in shown)
    assert shown[0].partition(" predicted ")[0] == shown[2].partition(" predicted ")[0]
    rows = [json.loads(line) for line in (tmp_path / "run" / "logs.jsonl").read_text().splitlines()]
    assert {row["step"] for row in rows} == {1, 2}
