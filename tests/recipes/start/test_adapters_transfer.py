"""The transfer recipe with adapters, from its command line, on the built-in images."""

import json
import shutil

import pytest
import yaml
from PIL import Image
from tiny_adapter_run import PowerCut, curve
from tiny_adapters import FAMILIES, answer_logits, save_checkpoint
from tolerances import assert_same_but_rounding

import openpali_cli  # pyright: ignore[reportMissingImports]
from openpali.eval.answering.load_model import load_model
from openpali.recipes import transfer
from openpali.recipes.training.trainer import PaliTrainer

pytestmark = pytest.mark.adapters

EMOJI = "{name: emoji, split: train, size: 32, concepts: 3, objects: [1, 1], length: 40}"
COMMON = ["--config", "transfers/what", "--source", EMOJI, "--use_cpu", "true", "--tensorboard", "false"]
COMMON += ["--per_device_train_batch_size", "8", "--max_steps", "16", "--save_steps", "8", "--eval_steps", "8"]
COMMON += ["--eval_limit", "4", "--test_limit", "4", "--dataloader_num_workers", "0", "--logging_steps", "1"]
COMMON += ["--learning_rate", "2e-2", "--warmup_steps", "0", "--lora_rank", "4", "--freeze"]


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request, tmp_path_factory, tiny_tokenizer):
    return save_checkpoint(request.param, tiny_tokenizer, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def qlora(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("qlora")
    transfer.main([*COMMON, "--model", str(checkpoint), "--output_dir", str(folder), "--peft", "qlora"])
    return folder


def test_freeze_alone_empties_the_list_of_the_configuration(qlora):
    assert yaml.safe_load((qlora / "config.yaml").read_text())["freeze"] == []


def test_qlora_lowers_its_loss_and_leaves_a_report(qlora):
    losses = [row[1] for row in curve(qlora)]
    assert len(losses) == 16
    assert sum(losses[-4:]) / 4 < 0.75 * losses[0]
    assert {"what", "answer"} & set(json.loads((qlora / "metrics.json").read_text()))
    assert (qlora / "report.html").exists()


def test_qlora_goes_on_where_it_was_cut(checkpoint, qlora, tmp_path, monkeypatch, capsys):
    argv = [*COMMON, "--model", str(checkpoint), "--output_dir", str(tmp_path), "--peft", "qlora"]
    step = PaliTrainer.training_step

    def cut(self, *args, **kwargs):
        if self.state.global_step == 11:
            raise PowerCut
        return step(self, *args, **kwargs)

    monkeypatch.setattr(PaliTrainer, "training_step", cut)
    with pytest.raises(PowerCut):
        transfer.main(argv)
    monkeypatch.setattr(PaliTrainer, "training_step", step)
    transfer.main(argv)
    assert f"resumed from {tmp_path / 'checkpoint-8'}" in capsys.readouterr().out
    assert curve(tmp_path) == curve(qlora)
    first, second = (answer_logits(load_model(str(folder), "cpu")[0], checkpoint) for folder in (qlora, tmp_path))
    assert_same_but_rounding(second, first)


def test_the_result_merges_and_both_answer_alike(checkpoint, qlora, tmp_path, capsys):
    whole = tmp_path / "whole"
    openpali_cli.main(["merge", str(qlora), str(whole), "--device", "cpu"])
    expected = answer_logits(load_model(str(qlora), "cpu")[0], checkpoint)
    assert (answer_logits(load_model(str(whole), "cpu")[0], checkpoint) - expected).abs().max() < 2e-4
    image = tmp_path / "image.png"
    answers = []
    Image.new("RGB", (40, 30), "red").save(image)
    for folder in (qlora, qlora / "best", whole):
        capsys.readouterr()
        arguments = [str(folder), str(image), "answer en what is this?", "--device", "cpu", "--max_new_tokens", "5"]
        openpali_cli.main(["predict", *arguments])
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1] == answers[2]


def test_the_log_says_what_is_quantised_and_what_trains(checkpoint, tmp_path, capsys):
    argv = [*COMMON[:-1], "--freeze", "vision_tower", "--max_steps", "1", "--model", str(checkpoint)]
    transfer.main([*argv, "--output_dir", str(tmp_path), "--peft", "qlora"])
    shown = capsys.readouterr().out
    assert "4-bit NF4 weights with double quantisation, computing in float32" in shown
    assert "qlora: adapters of rank 4, scaled by 8, in float32, beside" in shown
    assert next(line for line in shown.splitlines() if line.startswith("component")).split()[2] == "adapters"
    assert next(line for line in shown.splitlines() if line.startswith("vision_tower")).split()[2:] == [
        "0",
        "0",
        "frozen",
    ]
    assert f"Saved adapters and processor to {tmp_path}" in shown


def test_overwriting_one_kind_with_another_leaves_no_trace_of_it(checkpoint, qlora, tmp_path):
    """A folder with both a model's and an adapter's configuration would be loaded as something else."""
    folder = tmp_path / "run"
    shutil.copytree(qlora, folder)
    argv = [*COMMON, "--max_steps", "1", "--model", str(checkpoint), "--output_dir", str(folder), "--overwrite"]
    transfer.main(argv)
    assert {"config.json", "model.safetensors"} <= {path.name for path in folder.iterdir()}
    assert not {"adapter_config.json", "adapter_model.safetensors", "quantization.json"} & {
        p.name for p in folder.iterdir()
    }
    transfer.main([*argv, "--peft", "lora"])
    assert "adapter_config.json" in {path.name for path in folder.iterdir()}
    assert not {"config.json", "model.safetensors", "quantization.json"} & {path.name for path in folder.iterdir()}


def test_adapters_as_a_start_and_unknown_kinds_are_refused(checkpoint, qlora, tmp_path):
    for number, (argv, message) in enumerate(
        (
            (["--model", str(qlora)], "holds adapters; merge them first: openpali merge"),
            (["--model", str(checkpoint), "--peft", "lorra"], "invalid choice: 'lorra'"),
            (["--model", str(checkpoint), "--peft", "lora", "--lora_targets", "lm_head"], "LM head"),
        )
    ):
        with pytest.raises(SystemExit, match=message):
            transfer.main([*COMMON, "--output_dir", str(tmp_path / str(number)), *argv])
