"""SigLIP 2's stage: its phases, where it resumes, what it saves, and what goes on from there."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModel, AutoProcessor, SiglipModel

from openpali.recipes import pretrain, siglip2

EMOJI = "{name: emoji, split: train, size: 32, concepts: 4, objects: [1, 2], length: 40}"
COMMON = ["--use_cpu", "true", "--tensorboard", "false", "--per_device_train_batch_size", "4", "--max_steps", "4"]
COMMON += ["--eval_steps", "4", "--eval_limit", "4", "--logging_steps", "1", "--source", EMOJI, "--save_steps", "1"]
COMMON += ["--save_total_limit", "9"]
VISION = "{hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2, image_size: 32, "
VISION += "patch_size: 8}"
TEXT = "{hidden_size: 12, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2}"
HEADS = ["--prototypes", "12", "--head_width", "16", "--head_bottleneck", "8", "--local_views", "2"]
NEW = [*HEADS, "--vision_config", VISION, "--text_config", TEXT, "--vocab_size", "300", "--tokenizer_records", "5"]
NEW += ["--decoder_layers", "1", "--decoder_config", "{max_position_embeddings: 40}"]
LATE = ["--late_share", "0.5", "--ema_decay", "0.8", "--ema_decay_end", "1", "--learning_rate", "1e-2"]


def train(folder: Path, *options: str) -> SiglipModel:
    siglip2.main(["--output_dir", str(folder), *COMMON, *options])
    model = AutoModel.from_pretrained(folder)
    assert type(model) is SiglipModel
    return model


@pytest.fixture(scope="module")
def whole(tmp_path_factory, one_thread):
    folder = tmp_path_factory.mktemp("siglip2") / "whole"
    train(folder, *NEW, *LATE, "--tensorboard", "true")
    return folder


def rows_of(folder: Path) -> dict[int, dict[str, Any]]:
    """The log's lines of each step as one."""
    found: dict[int, dict[str, Any]] = {}
    for line in (folder / "logs.jsonl").read_text().splitlines():
        row = json.loads(line)
        found.setdefault(row["step"], {}).update(row)
    return found


def weights_of(folder: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(folder / f"checkpoint-{step}" / "model.safetensors")


def test_phases_in_the_log_and_in_the_weights(whole):
    rows = rows_of(whole)
    late = {"loss_local", "loss_masked", "local_entropy", "masked_entropy"}
    for step, row in rows.items():
        assert {"loss_contrastive", "loss_caption"} <= set(row)
        assert (late <= set(row)) is (step > 2)
        assert (not late & set(row)) is (step <= 2)
        extra = row["loss_local"] + 0.25 * row["loss_masked"] if step > 2 else 0.0
        assert row["loss"] == pytest.approx(row["loss_contrastive"] + row["loss_caption"] + extra, abs=1e-3)
    assert {"eval_loss_contrastive", "eval_loss_caption", "eval_recall_at_1"} <= set(rows[4])
    events = EventAccumulator(str(whole / "tensorboard"))
    events.Reload()
    shown = {f"train/{name}" for name in ({"loss", "loss_contrastive", "loss_caption"} | late)}
    assert shown <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("train/loss_local")] == [3, 4]
    steps = {step: weights_of(whole, step) for step in (1, 2, 3, 4)}
    assert [int(steps[step]["late_steps"]) for step in steps] == [0, 0, 1, 2]
    name = "vision_model.encoder.layers.0.mlp.fc1.weight"
    student, teacher = ({step: w[f"{part}.{name}"] for step, w in steps.items()} for part in ("siglip", "teacher"))
    assert torch.equal(teacher[1], teacher[2])
    assert not torch.equal(teacher[2], student[2])
    # begins as the student of step 2, the decay is half way up after one of two steps
    torch.testing.assert_close(teacher[3], 0.9 * student[2] + 0.1 * student[3], atol=1e-6, rtol=0)
    assert torch.equal(teacher[4], teacher[3])
    centers = [steps[step]["local_center"] for step in steps]
    assert not centers[1].any()
    assert centers[2].any()
    assert not torch.equal(centers[2], centers[3])


@pytest.mark.parametrize("step", [1, 2, 3])
def test_resumed_run_is_the_uninterrupted_one(whole, tmp_path, step):
    parts = tmp_path / "parts"
    shutil.copytree(whole, parts)
    # as if it had been killed after a checkpoint before, at the beginning of, or inside the late phase
    for name in ("best", *(f"checkpoint-{later}" for later in range(step + 1, 5))):
        shutil.rmtree(parts / name)
    for path in parts.glob("*.safetensors"):
        path.unlink()
    train(parts, *NEW, *LATE, "--resume", "auto")
    ours, theirs = weights_of(parts, 4), weights_of(whole, 4)
    assert ours.keys() == theirs.keys()
    for name, weights in theirs.items():
        assert torch.equal(ours[name], weights), name
    for key in ("loss_local", "loss_masked", "loss_caption", "eval_loss"):
        assert rows_of(parts)[4][key] == rows_of(whole)[4][key]


def test_stock_transformers_loads_the_result_in_a_process_of_its_own(whole):
    script = """
import sys
from transformers import SiglipModel, SiglipProcessor
model, info = SiglipModel.from_pretrained(sys.argv[1], output_loading_info=True)
assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
processor = SiglipProcessor.from_pretrained(sys.argv[1])
big, small = (processor.tokenizer(text)["input_ids"] for text in ("A Dog", "a dog"))
assert big == small and "<loc0000>" not in processor.tokenizer.decode(big)
assert "openpali" not in sys.modules
print(model.config.architectures, model.config.vision_config.image_size)
"""
    done = subprocess.run([sys.executable, "-c", script, str(whole)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["['SiglipModel']", "32"]


def test_stage_1_takes_the_result(whole, tmp_path):
    text = "{d_model: 16, d_kv: 8, d_ff: 32, num_layers: 1, num_decoder_layers: 1, num_heads: 2}"
    mixture = "{caption: {task: {name: caption}, source: " + EMOJI + "}}"
    argv = [*COMMON[:6], "--max_steps", "2", "--eval_limit", "2", "--test_limit", "2", "--mixture", mixture]
    argv += ["--vision_checkpoint", str(whole), "--model_config.text_config", text]
    pretrain.main([*argv, "--output_dir", str(tmp_path / "pali")])
    assert (tmp_path / "pali" / "model.safetensors").is_file()


def test_a_checkpoint_goes_on_at_another_resolution_with_all_its_parts(whole, tmp_path):
    start = whole / "checkpoint-4"
    options = ["--model", str(start), "--image_size", "48", "--patch_size", "6", "--late_share", "1"]
    options += ["--max_steps", "1"]
    model: Any = train(
        tmp_path / "large", *options, "--ema_decay", "0.5", "--learning_rate", "1e-9", "--local_views", "1"
    )
    assert model.config.vision_config.image_size == 48
    assert AutoProcessor.from_pretrained(tmp_path / "large").image_processor.size == {"height": 48, "width": 48}
    before, after = weights_of(whole, 4), weights_of(tmp_path / "large", 1)
    assert int(after["late_steps"]) == 3
    for part in ("siglip", "teacher"):
        assert after[f"{part}.vision_model.embeddings.position_embedding.weight"].shape == (64, 16)
        assert after[f"{part}.vision_model.embeddings.patch_embedding.weight"].shape == (16, 3, 6, 6)
    for name in ("heads.local.prototypes", "decoder.tokens.weight", "mask_token"):
        torch.testing.assert_close(after[name], before[name], atol=1e-6, rtol=0)
    # half way to the student, which has hardly moved: the teacher has not begun anew
    name = "vision_model.encoder.layers.0.mlp.fc1.weight"
    expected = (before[f"teacher.{name}"] + before[f"siglip.{name}"]) / 2
    torch.testing.assert_close(after[f"teacher.{name}"], expected, atol=1e-6, rtol=0)
    assert (before[f"teacher.{name}"] - before[f"siglip.{name}"]).abs().max() > 1e-3


def test_a_siglip_gets_new_parts(whole, tmp_path):
    options = ["--model", str(whole), *HEADS, "--late_share", "0", "--max_steps", "1", "--location_tasks"]
    model = train(tmp_path / "short", *options, "{caption: 1}", "--decoder_layers", "1", "--learning_rate", "1e-9")
    old = AutoModel.from_pretrained(whole)
    for (name, ours), theirs in zip(model.named_parameters(), old.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0, msg=name)
    assert {name.split(".")[0] for name in weights_of(tmp_path / "short", 1)} == {"siglip", "decoder"}


def test_what_will_not_work_is_said(tmp_path, capsys):
    lines = tmp_path / "pairs.jsonl"
    from PIL import Image

    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    row = {"image": "a.png", "prefix": "", "suffix": "a square"}
    lines.write_text("".join(json.dumps(row) + "\n" for _ in range(12)))
    source = ["--source", f"{{name: jsonl, path: {lines}}}", "--texts", "captions", "--max_steps", "1"]
    train(tmp_path / "run", *NEW, *source, "--late_share", "1", "--image_size", "40")
    out = capsys.readouterr().out
    assert "Warning: the first 100 records have no boxes: the decoder learns captions alone" in out
    assert "Warning: local views of 16 px are 2 x 2 patches" in out
    with pytest.raises(SystemExit, match="best_metric: naming_accuracy is not measured on this data; give one of im"):
        train(tmp_path / "other", *NEW, *source, "--eval_steps", "1", "--best_metric", "naming_accuracy")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--image_size", "16"], "an image of 16 px is 2 x 2 patches, too few for local views"),
        (["--local_view_size", "20"], "local_view_size=20: it is a multiple of the patch of 8 px"),
        (["--local_view_size", "32"], "local_view_size=32: .* less than the image's 32 px"),
        (["--location_tasks", "{detect: 1}"], "location_tasks: 'detect' is none of"),
        (["--late_share", "1.5"], "late_share=1.5: it is a share"),
        (["--naflex", "true"], "go on from its result with openpali contrastive --model"),
        (["--decoder_config", "{num_attention_heads: 5}"], "decoder_config: the decoder's width 16 cannot be split"),
        (["--masked_share", "0"], "masked_share=0.0: it is between 0 and 1"),
    ],
)
def test_mistakes(tmp_path, options, message):
    with pytest.raises(SystemExit, match=message):
        siglip2.main(["--output_dir", str(tmp_path / "run"), *COMMON, *NEW, *options])
