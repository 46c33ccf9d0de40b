"""`resolutions` of a configuration: which block counts, against what, and what becomes of the model."""

import json

import pytest
import yaml
from PIL import Image
from tiny_adapters import FAMILIES, save_checkpoint

from openpali.data.files.config import ConfigError
from openpali.eval.answering.load_model import load_model
from openpali.modeling.auto import load_processor
from openpali.recipes import transfer
from openpali.recipes.run.command_line import parse
from openpali.recipes.start.resized_checkpoint import resolution_keys

BASE = {"output_dir": "outputs/x", "model": "outputs/nowhere", "learning_rate": "1e-5", "seed": 3, "use_cpu": True}
BASE |= {"source": {"name": "emoji"}, "task": {"name": "detect", "most_boxes": 3}, "tensorboard": False}
BLOCKS = {448: {"learning_rate": "3e-6", "task": {"most_things": 2}}, 896: {"freeze": ["vision_tower"]}}


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request, tmp_path_factory, tiny_tokenizer):
    return save_checkpoint(request.param, tiny_tokenizer, tmp_path_factory.mktemp(request.param))


def configured(tmp_path, *argv, blocks=BLOCKS, **keys):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(BASE | {"resolutions": blocks} | keys))
    argv = ["--config", str(path), *argv]
    return parse(transfer.CLASSES, argv, overrides=resolution_keys(transfer.CLASSES, argv))


def test_a_block_counts_more_than_the_file_and_less_than_the_command_line(tmp_path):
    args, *_, run = configured(tmp_path, "--resolution", "448", "--seed", "5")
    assert (run.learning_rate, run.seed, run.freeze) == (3e-6, 5, [])
    assert args.task == {"name": "detect", "most_boxes": 3, "most_things": 2}
    *_, run = configured(tmp_path, "--resolution", "448", "--learning_rate", "1e-4")
    assert run.learning_rate == 1e-4


def test_another_number_takes_the_base_keys(tmp_path):
    args, *_, run = configured(tmp_path, "--resolution", "64")
    assert (run.learning_rate, run.freeze, args.resolution) == (1e-5, [], 64)


def test_without_a_resolution_the_checkpoint_decides(tmp_path, checkpoint):
    side = load_processor(checkpoint).image_processor.size["height"]
    *_, run = configured(tmp_path, "--model", str(checkpoint), blocks={side: {"seed": 77}, 448: {"seed": 2}})
    assert run.seed == 77


def test_a_resolved_configuration_is_not_changed_by_its_blocks_again(tmp_path):
    *_, run = configured(tmp_path, "--resolution", "448", "--learning_rate", "1e-4")
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(run.resolved))
    argv = ["--config", str(again)]
    *_, rerun = parse(transfer.CLASSES, argv, overrides=resolution_keys(transfer.CLASSES, argv))
    assert rerun.learning_rate == 1e-4
    assert rerun.resolved == run.resolved


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ({448: {}, 896: {"learning_rte": 1}}, r"resolutions: 896: unknown key 'learning_rte'; did you mean 'lear"),
        ({448: {"seed": "many"}}, "resolutions: 448: seed must be a whole number, not 'many'"),
        ({"large": {"seed": 1}}, "resolutions: large must be a size in pixels"),
    ],
)
def test_a_mistake_in_any_block_is_told(tmp_path, blocks, message):
    with pytest.raises(ConfigError, match=message):
        configured(tmp_path, "--resolution", "448", blocks=blocks)


@pytest.mark.parametrize("peft", ["none", "lora"])
def test_model_and_processor_are_resized_and_load_again(tmp_path, checkpoint, peft):
    argv = ["--config", "transfers/what", "--source", "{name: emoji, split: train, size: 32, concepts: 4, length: 8}"]
    argv += ["--use_cpu", "true", "--tensorboard", "false", "--max_steps", "1", "--dataloader_num_workers", "0"]
    argv += ["--eval_limit", "2", "--test_limit", "2", "--resolution", "32", "--peft", peft, "--num_beams", "2"]
    argv += ["--text_dropout", "0.25", "--model", str(checkpoint), "--output_dir", str(tmp_path / "run")]
    transfer.main([*argv, "--per_device_train_batch_size", "2"])
    model, processor = load_model(str(tmp_path / "run"), "cpu")
    assert model.config.vision_config.image_size == 32
    assert processor.image_processor.size == {"height": 32, "width": 32}
    image = Image.new("RGB", (20, 20), "red")
    inputs = processor(images=image, text="what is this?", return_tensors="pt")
    inputs.pop("labels", None)
    ids = inputs["input_ids"][0]
    assert int((ids == processor.image_token_id).sum()) == (32 // model.config.vision_config.patch_size) ** 2
    model.generate(**inputs, max_new_tokens=2)  # pyright: ignore[reportCallIssue]
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())


def test_a_dropout_that_is_none_is_told(tmp_path, checkpoint):
    argv = ["--config", "transfers/what", "--model", str(checkpoint), "--text_dropout", "1.5", "--use_cpu", "true"]
    with pytest.raises(SystemExit, match="text_dropout=1.5: give a probability"):
        transfer.main([*argv, "--output_dir", str(tmp_path / "run")])
