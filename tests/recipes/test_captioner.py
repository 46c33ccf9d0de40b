"""Stage 0 from captions: its folder in the later stages, boxes, resuming, and mistakes."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoImageProcessor, AutoModel, SiglipModel, SiglipVisionModel

from openpali import Captioner
from openpali.eval import encoders
from openpali.recipes import captioner, contrastive, pretrain
from openpali.recipes.training.progress import read_log

EMOJI = "{name: emoji, split: train, size: 32, concepts: 4, objects: [1, 1], length: 40}"
COMMON = ["--use_cpu", "true", "--tensorboard", "false", "--per_device_train_batch_size", "4", "--max_steps", "2"]
COMMON += ["--eval_steps", "2", "--eval_limit", "4", "--logging_steps", "1", "--source", EMOJI, "--save_steps", "2"]
COMMON += ["--dataloader_num_workers", "0"]
VISION = "{hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2, image_size: 32, "
VISION += "patch_size: 16}"
VOCABULARY = ["--vocab_size", "300", "--tokenizer_records", "5"]
NEW = ["--vision_config", VISION, "--decoder_layers", "1", "--text_length", "24", *VOCABULARY]
LOCATED = ["--location_tasks", "{caption: 2, refer: 1, grounded_caption: 1}", "--text_length", "40"]


def train(folder: Path, *options: str) -> Captioner:
    captioner.main(["--output_dir", str(folder), *COMMON, *options])
    model = AutoModel.from_pretrained(folder)
    assert type(model) is Captioner
    return model


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captioner") / "plain"
    train(folder, *NEW)
    return folder


@pytest.fixture(scope="module")
def located(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captioner") / "located"
    train(folder, *NEW, *LOCATED)
    return folder


def test_published_defaults(plain):
    config = AutoModel.from_pretrained(plain).config
    assert captioner.CaptionerArguments().modes == captioner.Modes(0.75, 1.0, 0.0)
    assert (config.decoder_config.hidden_size, config.decoder_config.num_attention_heads) == (16, 2)
    assert config.decoder_config.mask_token
    assert not config.decoder_config.use_bias
    assert config.caption_prompt == ""
    last = [row for row in read_log(plain / "logs.jsonl") if "eval_loss" in row][-1]
    assert last["eval_log_likelihood"] == -last["eval_loss"]
    assert {"eval_image_gain", "eval_best"} & last.keys()


def test_the_encoder_alone_is_a_stock_siglip_tower(plain):
    tower = AutoModel.from_pretrained(plain / "encoder")
    assert type(tower) is SiglipVisionModel
    assert not tower.config.vision_use_head
    assert AutoImageProcessor.from_pretrained(plain / "encoder").size == {"height": 32, "width": 32}
    pixels = torch.randn(2, 3, 32, 32)
    whole = AutoModel.from_pretrained(plain)
    torch.testing.assert_close(tower(pixels).last_hidden_state, whole.image_tokens(pixels))


def test_stage_1_starts_from_it(plain, tmp_path):
    text = "{d_model: 16, d_kv: 8, d_ff: 32, num_layers: 1, num_decoder_layers: 1, num_heads: 2}"
    mixture = "{caption: {task: {name: caption}, source: " + EMOJI + "}}"
    argv = [*COMMON[:10], "--mixture", mixture, "--output_dir", str(tmp_path / "pali"), "--test_limit", "2"]
    argv += ["--learning_rate", "1e-5", "--vision_checkpoint", str(plain), "--model_config.text_config", text]
    pretrain.main(argv)
    model = AutoModel.from_pretrained(tmp_path / "pali")
    ours, theirs = AutoModel.from_pretrained(plain).encoder(), model.encoder.vision_tower
    for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(two, one, atol=1e-4, rtol=0)


def test_contrastive_training_goes_on_with_its_encoder(plain, tmp_path):
    text = "{hidden_size: 12, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2}"
    argv = [*COMMON, "--output_dir", str(tmp_path / "siglip"), "--vision_checkpoint", str(plain), *VOCABULARY]
    contrastive.main([*argv, "--text_config", text, "--learning_rate", "1e-5"])
    model = AutoModel.from_pretrained(tmp_path / "siglip")
    assert type(model) is SiglipModel
    assert model.vision_model.config.vision_use_head
    weight = AutoModel.from_pretrained(plain).vision_model.post_layernorm.weight
    torch.testing.assert_close(model.vision_model.post_layernorm.weight, weight, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["plain", "located"])
def test_it_is_measured(kind, tmp_path, request):
    folder = request.getfixturevalue(kind)
    source = json.dumps({"name": "emoji", "split": "test", "size": 32, "concepts": 4, "objects": [1, 1], "length": 16})
    argv = ["--model", str(folder), "--source", source, "--output", str(tmp_path), "--shots", "1", "--device", "cpu"]
    encoders.main([*argv, "--languages", "en", "--batch_size", "5"])
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert 0 <= found["zero_shot"]["mean"]["top_1"] <= 1
    assert found["zero_shot"]["languages"]["en"]["classes"] == 4
    (probe,) = found["probe"].values()
    assert probe["pooling"] == "mean"
    assert found["notes"] == [f"retrieval: not measured, {kind} has no text tower"]


def test_boxes_are_learned_beside_captions(located, capsys):
    rows = read_log(located / "logs.jsonl")
    last = [row for row in rows if "eval_loss" in row][-1]
    assert {"eval_loss_refer", "eval_image_gain_grounded_caption", "eval_box_accuracy"} <= last.keys()
    seen = [row for row in rows if "seen_refer" in row][-1]
    assert sum(seen[f"seen_{name}"] for name in ("caption", "refer", "grounded_caption")) == 8
    assert AutoModel.from_pretrained(located).config.caption_prompt == "caption {language}"


def test_it_goes_on_from_a_captioner(plain, tmp_path):
    options = ["--model", str(plain), "--image_size", "48", "--learning_rate", "1e-5", "--text_length", "16"]
    model = train(tmp_path / "large", *options, "--masked_pred_prob", "0")
    assert model.config.vision_config.image_size == 48
    old = AutoModel.from_pretrained(plain)
    torch.testing.assert_close(model.decoder.tokens.weight, old.decoder.tokens.weight, atol=1e-4, rtol=0)


def test_a_trained_encoder_learns_slowly(plain, tmp_path, capsys):
    train(
        tmp_path / "lit",
        *NEW[2:],
        "--vision_checkpoint",
        str(plain / "encoder"),
        "--learning_rate",
        "1e-2",
        "--max_steps",
        "1",
    )
    table = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if "decay" not in line}
    assert (table["vision_model"][3], table["decoder"][3]) == ("0.001", "0.01")


@pytest.mark.parametrize("options", [[], LOCATED])
def test_resumed_run_is_the_uninterrupted_one(options, tmp_path, one_thread):
    options = [*NEW, *options, "--max_steps", "4", "--eval_steps", "4", "--decoder_dropout", "0.1", "--masking_ratio"]
    options += ["0.5"]
    whole = train(tmp_path / "whole", *options)
    captioner.main(["--output_dir", str(tmp_path / "parts"), *COMMON, *options])
    # as if it had been killed after its first checkpoint
    for name in ("best", "checkpoint-4"):
        shutil.rmtree(tmp_path / "parts" / name)
    parts = train(tmp_path / "parts", *options, "--resume", "auto")
    for (name, ours), theirs in zip(parts.named_parameters(), whole.parameters()):
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--masked_pred_prob", "1.5"], "masked_pred_prob=1.5: it is a share"),
        (["--location_tasks", "{refr: 1}"], "location_tasks: 'refr' is none of .*did you mean 'refer'"),
        (["--location_tasks", "{refer: many}"], "the share of refer is a number from 0 up"),
        (["--location_tasks", "{refer: 0}"], "location_tasks: one share is above 0"),
        ([*LOCATED, "--texts", "names"], "texts: with location_tasks a caption is the image's"),
        ([*LOCATED, "--max_steps", "-1"], "max_steps is missing: a mixture of tasks has no epochs"),
        (["--decoder_heads", "3"], "width 16 cannot be split into 3 heads"),
        (["--model", "x", "--decoder_layers", "2"], "model is a whole captioner .*: decoder_layers is for a new one"),
        (["--vision_checkpoint", "nowhere/at/all"], "vision_checkpoint: there is no folder nowhere/at/all"),
        (["--decoder_dropout", "1"], "decoder_dropout=1.0: it is from 0 to below 1"),
        (["--decoder_layers", "-1"], "decoder_layers=-1: it is not negative"),
    ],
)
def test_mistakes(options, message, tmp_path):
    with pytest.raises(SystemExit, match=message):
        captioner.main(["--output_dir", str(tmp_path / "run"), *COMMON, *NEW[:2], *VOCABULARY, *options])


def test_records_without_boxes(tmp_path):
    from PIL import Image

    Image.new("RGB", (32, 32)).save(tmp_path / "dog.png")
    lines = [json.dumps({"image": "dog.png", "prefix": "", "suffix": "a dog"})] * 8
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    argv = ["--output_dir", str(tmp_path / "run"), *COMMON, *NEW]
    source = ["--source", f"{{name: jsonl, path: {tmp_path / 'pairs.jsonl'}}}"]
    with pytest.raises(SystemExit, match="the task '(caption|refer)' needs '(captions|objects)'"):
        captioner.main([*argv, *LOCATED, *source])
    captioner.main([*argv, *source, "--overwrite", "true"])
