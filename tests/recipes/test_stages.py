"""The stages one after the other, from their command lines, at the smallest sizes."""

import json
import logging
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from accelerate.commands.launch import launch_command_parser
from PIL import Image
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor, SiglipModel, SiglipProcessor

import openpali
from openpali.data.files.config import CONFIGS
from openpali.recipes import (
    captioner,
    classification,
    contrastive,
    denoise,
    dense,
    mask_vqvae,
    pretrain,
    reward,
    siglip2,
    transfer,
)
from openpali.recipes.training.progress import read_log
from openpali_cli import VERBS

EMOJI = "{name: emoji, split: train, size: 32, concepts: 4, objects: [1, 2], length: 60}"
COMMON = ["--use_cpu", "true", "--tensorboard", "false", "--per_device_train_batch_size", "4", "--max_steps", "2"]
COMMON += ["--eval_steps", "1", "--eval_limit", "4", "--dataloader_num_workers", "0", "--logging_steps", "1"]
SMALL_VISION = "{hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2"
SMALL_VISION += ", image_size: 32, patch_size: 16}"
SMALL_TEXT = "{d_model: 16, d_kv: 8, d_ff: 32, num_layers: 1, num_decoder_layers: 1, num_heads: 2}"


@pytest.fixture(scope="module")
def stage_0(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stages") / "siglip"
    argv = ["--config", "pali3/nano-contrastive", "--output_dir", str(folder), *COMMON, "--source", EMOJI]
    argv += ["--vision_config", SMALL_VISION, "--text_config", "{num_hidden_layers: 1}", "--vocab_size", "300"]
    contrastive.main([*argv, "--tokenizer_records", "5"])
    return folder


@pytest.fixture(scope="module")
def stage_1(stage_0):
    folder = stage_0.with_name("pali3")
    argv = ["--config", "pali3/nano-pretrain", "--output_dir", str(folder), *COMMON, "--source", EMOJI]
    argv += ["--vision_checkpoint", str(stage_0), "--test_limit", "2"]
    pretrain.main([*argv, "--model_config.text_config", SMALL_TEXT])
    return folder


def test_stage_0_gives_a_siglip_model_that_stock_transformers_loads(stage_0):
    model, processor = AutoModel.from_pretrained(stage_0), AutoProcessor.from_pretrained(stage_0)
    assert isinstance(model, SiglipModel)
    assert isinstance(processor, SiglipProcessor)
    inputs = processor(images=[Image.new("RGB", (50, 40))], text=["dog"], padding="max_length", return_tensors="pt")
    assert inputs["input_ids"].shape == (1, 16)
    assert inputs["pixel_values"].shape == (1, 3, 32, 32)
    assert "attention_mask" not in inputs
    assert model(**inputs).logits_per_image.shape == (1, 1)
    scores = [row for row in read_log(stage_0 / "logs.jsonl") if "eval_naming_accuracy" in row]
    assert [row["step"] for row in scores] == [1, 2]
    assert {"eval_image_to_text", "eval_text_to_image", "eval_recall_at_1"} <= set(scores[0])


def test_stage_0_does_not_complain_of_siglips_own_defaults(stage_0, tmp_path, caplog):
    logger = logging.getLogger("transformers.configuration_utils")
    logger.addHandler(caplog.handler)
    try:
        with pytest.raises(SystemExit):
            pretrain.main(["--output_dir", str(tmp_path)])  # any recipe installs the filter
        logger.warning("eos_token_id must be within the vocabulary, got 49407")
        logger.warning("something else")
    finally:
        logger.removeHandler(caplog.handler)
    # a set: Transformers' logger may pass its records on to the root as well
    assert {record.getMessage() for record in caplog.records} == {"something else"}


def test_stage_0_starts_from_the_configured_temperature_and_the_papers_bias(stage_0):
    # two steps at most from log 20 (the paper's is log 10) and -10
    model = SiglipModel.from_pretrained(stage_0)
    assert yaml.safe_load((stage_0 / "config.yaml").read_text())["temperature"] == 20
    assert model.logit_scale.item() == pytest.approx(2.9957, abs=0.01)
    assert model.logit_bias.item() == pytest.approx(-10, abs=0.01)
    assert yaml.safe_load((stage_0 / "config.yaml").read_text())["adam_beta2"] == 0.95


def test_stage_1_keeps_the_image_encoder_of_stage_0(stage_0, stage_1):
    tower = AutoModelForImageTextToText.from_pretrained(stage_1).model.encoder.vision_tower.state_dict()
    trained = SiglipModel.from_pretrained(stage_0).vision_model.state_dict()
    assert tower
    for name, weight in tower.items():
        assert torch.equal(weight, trained[name]), name


def test_stage_1_checkpoint_answers(stage_1):
    model = AutoModelForImageTextToText.from_pretrained(stage_1)
    processor = AutoProcessor.from_pretrained(stage_1)
    assert isinstance(processor, openpali.Pali3Processor)
    assert len(processor.tokenizer) <= model.config.text_config.vocab_size
    inputs = processor(images=[Image.new("RGB", (50, 40))], text=["answer en what is this?"], return_tensors="pt")
    assert model.generate(**inputs, max_new_tokens=3).shape[0] == 1
    metrics = json.loads((stage_1 / "metrics.json").read_text())
    assert set(metrics) == {"caption", "what"}
    assert "exact_match" in metrics["what"]["blank_images"]
    assert "OpenMoji" in (stage_1 / "report.html").read_text()


def test_transfer_moves_everything_but_the_image_encoder(stage_1, tmp_path):
    argv = ["--config", "transfers/what", "--model", str(stage_1), "--output_dir", str(tmp_path / "what")]
    argv += [*COMMON, "--source", EMOJI, "--test_limit", "2", "--warmup_steps", "0"]
    transfer.main(argv)
    before = AutoModelForImageTextToText.from_pretrained(stage_1).state_dict()
    after = AutoModelForImageTextToText.from_pretrained(tmp_path / "what").state_dict()
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {name for name in before if "vision_tower" in name}


@pytest.fixture
def own_data(tmp_path):
    rows = []
    for i in range(20):
        noise = np.random.default_rng(i).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{i}.jpg")
        rows.append({"image": f"{i}.jpg", "prefix": "what is this?", "suffix": f"noise {i % 2}"})
    content = (tmp_path / "3.jpg").read_bytes()
    (tmp_path / "3.jpg").write_bytes(content[: len(content) // 2])
    rows[5]["image"] = "nowhere.jpg"
    Image.new("RGB", (1, 1)).save(tmp_path / "7.png")
    rows[7]["image"] = "7.png"
    Image.new("1", (30000, 30000)).save(tmp_path / "9.png")
    rows[9]["image"] = "9.png"
    rows[11]["suffix"] = "very " * 100
    path = tmp_path / "my.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_strangers_data_trains_and_every_fault_is_named(stage_1, own_data, tmp_path, capsys):
    argv = ["--config", "transfers/jsonl", "--data", str(own_data), "--model", str(stage_1)]
    transfer.main([*argv, "--output_dir", str(tmp_path / "run"), *COMMON])
    shown = capsys.readouterr().out
    assert "4 of 20 records cannot be used" in shown
    for line, words in ((4, "truncated"), (6, "does not exist"), (8, "1x1"), (10, "too large")):
        assert any(f"my.jsonl:{line}:" in row and words in row for row in shown.splitlines()), words
    assert "my.jsonl:12: its suffix has" in shown
    assert "cut to suffix_max_length=64" in shown
    assert "13 for training, 3 held out" in shown
    assert "Skipped 4 records" in shown
    skipped = [json.loads(row) for row in (tmp_path / "run" / "skipped_records.jsonl").read_text().splitlines()]
    assert [row["record"] for row in skipped] == ["4", "6", "8", "10"]
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--data", "no.jsonl"], "no.jsonl.*no such file"),
        (["--model", "outputs/none", "--source", EMOJI, "--task", "{name: ocr}"], "there is no folder outputs/none"),
        (["--source", "{name: emojis}", "--task", "{name: ocr}"], "no source 'emojis'.*Did you mean 'emoji'"),
        (["--source", "{name: emoji, split: train, sise: 3}", "--task", "{name: ocr}"], "Did you mean 'size'"),
        (["--source", EMOJI, "--task", "{name: anser}"], "no task 'anser'.*Did you mean 'answer'"),
        (["--task", "{name: ocr}"], "there is no data: give --data and --kind, or source"),
        (["--source", EMOJI], "there is no task"),
        (["--source", EMOJI, "--model", "", "--task", "{name: ocr}"], "there is no model"),
    ],
)
def test_transfer_mistakes_end_with_one_sentence(stage_1, tmp_path, argv, message):
    with pytest.raises(SystemExit, match=f"^error: .*{message}"):
        transfer.main(["--model", str(stage_1), "--output_dir", str(tmp_path / "run"), "--use_cpu", *argv])


def test_mixture_mistakes(tmp_path):
    for mixture, message in (
        ("{a: {tusk: {name: ocr}}}", "a must be"),
        ("{}", "mixture is empty"),
        ("{a: {task: {name: ocr}}}", "vision_checkpoint is missing"),
    ):
        with pytest.raises(SystemExit, match=message):
            pretrain.main(["--mixture", mixture, "--output_dir", str(tmp_path), "--max_steps", "1", "--use_cpu"])
    with pytest.raises(SystemExit, match="b is not an entry of the mixture: a"):
        pretrain.main(["--mixture", "{a: {task: {name: ocr}}}", "--best_on", "b", "--output_dir", str(tmp_path)])


MODULES = {"contrastive": contrastive, "dense": dense, "mask_vqvae": mask_vqvae, "pretrain": pretrain}
MODULES |= {"transfer": transfer, "denoise": denoise, "classification": classification, "reward": reward}
MODULES |= {"captioner": captioner, "siglip2": siglip2}
# what `--kind` takes, and what is only evaluated: tests of custom data and of the transfers run them
BY_VERB = {"custom": "transfer", "pope": "eval"}
# of launches, of sets that are only evaluated and of openpali web (tests/recipes/configs has tests of both)
NO_STAGES = ("accelerate", "evaluation", "web")


@pytest.mark.parametrize(
    "path",
    [p for p in sorted(CONFIGS.glob("*/*.yaml")) if p.parent.name not in NO_STAGES and p.stem not in BY_VERB],
    ids=lambda p: p.stem,
)
def test_every_shipped_configuration_opens_with_the_command_that_parses_it(path, tmp_path, monkeypatch):
    name, options = command_of(path.read_text().splitlines()[0].removeprefix("# "))
    assert options[:2] == ["--config", f"{path.parent.name}/{path.stem}"]
    module, seen = MODULES[name], []

    def stop(run, inputs):
        seen.append(run)
        raise SystemExit("parsed")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "open_run", stop)
    with pytest.raises(SystemExit, match="parsed"):
        module.main([*options, "--use_cpu"])
    assert seen[0].resolved["output_dir"].startswith("outputs/")


def command_of(line: str) -> tuple[str, list[str]]:
    """Stage and options of a command: `openpali STAGE OPTIONS`, or accelerate's launch of the stage's module."""
    program, *words = line.split()
    if program == "openpali":
        assert VERBS[words[0]][0] == f"openpali.recipes.{words[0]}"
        return words[0], words[1:]
    assert (program, words[0]) == ("accelerate", "launch")
    module = words.index("-m")
    launch = launch_command_parser().parse_args(words[1 : module + 2])
    assert launch.num_processes > 1
    return words[module + 1].removeprefix("openpali.recipes."), words[module + 2 :]


@pytest.mark.parametrize(("name", "verb"), list(BY_VERB.items()))
def test_the_two_that_are_no_recipes_configurations_open_with_their_verb(name, verb):
    first = (CONFIGS / "transfers" / f"{name}.yaml").read_text().splitlines()[0]
    assert first.startswith(f"# openpali {verb} --")


@pytest.mark.parametrize("name", list(MODULES))
def test_the_recipes_docstring_names_commands_that_exist(name):
    lines = [line.strip() for line in str(MODULES[name].__doc__).splitlines() if line.startswith("    ")]
    commands = [command_of(line) for line in lines]
    assert [stage for stage, _ in commands] == [name] * len(commands)
    named = [options[1] for _, options in commands if options[0] == "--config"]
    assert named
    assert all((CONFIGS / f"{config}.yaml").is_file() for config in named)


def test_as_a_module_it_ends_with_one_sentence_and_no_traceback(tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text("output_dir: out\nlerning_rate: 1e-3\n")
    command = [sys.executable, "-m", "openpali.recipes.transfer", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 1
    assert "mine.yaml: unknown key 'lerning_rate'; did you mean 'learning_rate'?" in done.stderr
    assert "Traceback" not in done.stderr
