"""Ways to begin stage 0, and its baseline; the plain way is tested with the other stages."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoImageProcessor, AutoModel, AutoProcessor, SiglipModel, pipeline

from openpali.data.sources import load_source
from openpali.modeling.modeling_siglip import SiglipForContrastiveLearning
from openpali.recipes import classification, contrastive, pretrain

EMOJI = "{name: emoji, split: train, size: 32, concepts: 4, objects: [1, 1], length: 40}"
COMMON = ["--use_cpu", "true", "--tensorboard", "false", "--per_device_train_batch_size", "4", "--max_steps", "2"]
COMMON += ["--eval_steps", "2", "--eval_limit", "4", "--logging_steps", "1", "--source", EMOJI, "--save_steps", "1"]
VISION = "{hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2, image_size: 32, "
VISION += "patch_size: 16}"
TEXT = "{hidden_size: 12, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2}"
NEW = ["--vision_config", VISION, "--text_config", TEXT, "--vocab_size", "300", "--tokenizer_records", "5"]


def train(folder: Path, *options: str) -> SiglipModel:
    contrastive.main(["--output_dir", str(folder), *COMMON, *options])
    model = AutoModel.from_pretrained(folder)
    assert type(model) is SiglipModel
    return model


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("contrastive") / "plain"
    train(folder, *NEW, "--languages", "en", "de", "--texts", "names", "captions", "--texts_per_image", "3")
    return folder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classification") / "plain"
    classification.main(["--output_dir", str(folder), *COMMON, "--vision_config", VISION])
    return folder


def last_scores(folder: Path) -> dict[str, float]:
    rows = [json.loads(line) for line in (folder / "logs.jsonl").read_text().splitlines()]
    return [row for row in rows if any(key.startswith("eval_") for key in row)][-1]


def test_another_resolution_goes_on_from_a_checkpoint(plain, tmp_path, capsys):
    options = ["--image_size", "64", "--learning_rate", "1e-5", "--weight_decay", "0"]
    model = train(tmp_path / "large", "--model", str(plain), "--languages", "en", *options)
    processor = AutoProcessor.from_pretrained(tmp_path / "large")
    assert model.config.vision_config.image_size == 64
    assert processor.image_processor.size == {"height": 64, "width": 64}
    assert model.vision_model.embeddings.position_embedding.weight.shape == (16, 16)
    small = AutoModel.from_pretrained(plain)
    # two steps at that rate leave the text tower where it was
    table = (m.text_model.embeddings.token_embedding.weight for m in (model, small))
    torch.testing.assert_close(*table, atol=1e-4, rtol=0)
    assert last_scores(tmp_path / "large")["eval_recall_at_1"] >= 0


@pytest.mark.parametrize("start", ["plain", "classifier"])
def test_a_trained_image_tower_learns_slowly_and_does_not_decay(start, tmp_path, request, capsys):
    checkpoint = request.getfixturevalue(start)
    options = ["--vision_checkpoint", str(checkpoint), "--learning_rate", "1e-2", "--weight_decay", "0.5"]
    model = train(tmp_path / "lit", *NEW[2:], *options)
    table = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if "_model " in line}
    assert table["vision_model"][3:] == ["0.001", "none"]
    assert table["text_model"][3:6] == ["0.01", "0.5", "on"]
    old = AutoModel.from_pretrained(checkpoint) if start == "plain" else None
    if old is not None:
        before, after = (m.vision_model.embeddings.patch_embedding.weight for m in (old, model))
        # a few steps of at most 0.001 from where it was, where new weights would be anywhere
        torch.testing.assert_close(after, before, atol=0.005, rtol=0)
        assert not torch.equal(after, before)


def test_narrow_token_embeddings_are_whole_in_the_result(tmp_path):
    model = train(tmp_path / "narrow", *NEW, "--token_bottleneck", "4")
    table = model.text_model.embeddings.token_embedding.weight
    assert torch.linalg.matrix_rank(table) == 4
    best = SiglipForContrastiveLearning.from_pretrained(tmp_path / "narrow" / "best")
    torch.testing.assert_close(best.text_model.embeddings.token_embedding.weight, table)


def test_softmax_loss_leaves_the_bias_alone(tmp_path):
    model = train(tmp_path / "clip", *NEW, "--loss", "softmax", "--temperature", "14")
    assert model.logit_bias.item() == -10
    assert model.logit_scale.exp().item() != 14


def test_resumed_run_is_the_uninterrupted_one(tmp_path):

    options = [*NEW, "--token_bottleneck", "4", "--max_steps", "4", "--eval_steps", "4"]
    whole = train(tmp_path / "whole", *options)
    contrastive.main(["--output_dir", str(tmp_path / "parts"), *COMMON, *options])
    # as if it had been killed after its second checkpoint
    for name in ("best", "checkpoint-4"):
        for path in sorted((tmp_path / "parts" / name).rglob("*"), reverse=True):
            path.unlink()
        (tmp_path / "parts" / name).rmdir()
    parts = train(tmp_path / "parts", *options, "--resume", "auto")
    for (name, ours), theirs in zip(parts.named_parameters(), whole.parameters()):
        assert torch.equal(ours, theirs), name


def test_classifier_is_loaded_by_the_stock_pipeline(classifier):
    answer = pipeline("image-classification", model=str(classifier), top_k=4)(
        load_source({"name": "emoji", "split": "test", "size": 32, "concepts": 4, "objects": [1, 1]})[0]["image"]
    )
    assert {row["label"] for row in answer} == {"dog", "apple", "car", "tree"}
    assert AutoImageProcessor.from_pretrained(classifier).size == {"height": 32, "width": 32}
    assert {"eval_accuracy", "eval_top_5"} <= set(last_scores(classifier))


@pytest.mark.parametrize("start", ["plain", "classifier"])
def test_stage_1_starts_from_either(start, tmp_path, request):
    folder = request.getfixturevalue(start)
    text = "{d_model: 16, d_kv: 8, d_ff: 32, num_layers: 1, num_decoder_layers: 1, num_heads: 2}"
    mixture = "{caption: {task: {name: caption}, source: " + EMOJI + "}}"
    argv = [*COMMON[:-4], "--mixture", mixture, "--output_dir", str(tmp_path / "pali"), "--test_limit", "2"]
    argv += ["--vision_checkpoint", str(folder), "--model_config.text_config", text]
    if start == "classifier":
        with pytest.raises(SystemExit, match="tokenizer is missing: .* is an image encoder without one"):
            pretrain.main(argv)
    argv += [] if start == "plain" else ["--tokenizer", str(request.getfixturevalue("plain")), "--overwrite"]
    pretrain.main(argv)
    assert (tmp_path / "pali" / "model.safetensors").is_file()


def test_losses_of_classification_by_hand():
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.0, -3.0]])
    classes = torch.tensor([[1.0, 0, 1], [0, 1, 0]])

    class Fixed(torch.nn.Module):
        def forward(self, pixel_values):
            return type("Output", (), {"logits": logits})

    batch = {"pixel_values": logits, "classes": classes}
    probability = logits.sigmoid()
    expected = -(classes * probability.log() + (1 - classes) * (1 - probability).log()).sum() / 2
    torch.testing.assert_close(classification.sigmoid_naming_loss(Fixed(), batch), expected)
    logs = logits.log_softmax(1)
    expected = -((logs[0, 0] + logs[0, 2]) / 2 + logs[1, 1]) / 2
    torch.testing.assert_close(classification.softmax_naming_loss(Fixed(), batch), expected)


def test_mistakes(tmp_path):
    folder = ["--output_dir", str(tmp_path / "run"), *COMMON]
    for options, message in (
        (["--preset", "b32"], "preset: no preset 'b32'"),
        (["--model", "x", "--vision_checkpoint", "y"], "model is a whole checkpoint"),
        (["--texts", "titles"], "texts are some of captions, names, keywords"),
        (["--language_weights", "{fr: 2}"], "language_weights={'fr': 2}: give numbers from 0 up"),
    ):
        with pytest.raises(SystemExit, match=message):
            contrastive.main([*folder, *NEW[2:], *options, "--overwrite"])
    with pytest.raises(SystemExit, match="the first 20000 records hold no objects with names in 'xx'"):
        classification.main([*folder, "--language", "xx", "--overwrite"])
