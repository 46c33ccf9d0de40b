"""Dense training of the image encoder: its targets, its scores, and the folder that stage 1 takes."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor, SiglipModel

from openpali.data.example import Box, Example
from openpali.data.masks.rle import encode_rle
from openpali.modeling.location_tokens import location_token
from openpali.recipes import contrastive, dense, pretrain
from openpali.recipes.stages.dense_patches import (
    PatchCollator,
    Patches,
    box_coverage,
    box_ious,
    frequent_names,
    mask_coverage,
    patch_scores,
)
from openpali.recipes.training.progress import read_log

EMOJI = "{name: emoji, split: train, size: 32, concepts: 4, objects: [1, 2], length: 60}"
COMMON = ["--use_cpu", "true", "--tensorboard", "false", "--per_device_train_batch_size", "4", "--max_steps", "2"]
COMMON += ["--eval_steps", "1", "--eval_limit", "4", "--dataloader_num_workers", "0", "--logging_steps", "1"]
SMALL_VISION = "{hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2"
SMALL_VISION += ", image_size: 32, patch_size: 16}"
SMALL = "{tie_word_embeddings: false, image_positions: sine, projector_init: normal, text_config: {d_model: 16"
SMALL += ", d_kv: 8, d_ff: 32, num_layers: 1, num_decoder_layers: 1, num_heads: 2}}"


@pytest.fixture(scope="module")
def stage_0(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dense") / "siglip"
    argv = ["--config", "pali3/nano-contrastive", "--output_dir", str(folder), *COMMON, "--source", EMOJI]
    argv += ["--vision_config", SMALL_VISION, "--text_config", "{num_hidden_layers: 1}", "--vocab_size", "300"]
    contrastive.main([*argv, "--tokenizer_records", "5"])
    return folder


@pytest.fixture(scope="module")
def stage_0b(stage_0):
    folder = stage_0.with_name("dense")
    dense.main(command(stage_0, folder))
    return folder


def command(stage_0, folder):
    argv = ["--config", "pali3/nano-dense", "--output_dir", str(folder), *COMMON, "--source", EMOJI]
    return [*argv, "--model", str(stage_0), "--save_steps", "1", "--warmup_steps", "0"]


def test_coverage_of_boxes_and_masks():
    box = Box(0.25, 0, 0.875, 0.5)
    expected = torch.tensor([[0, 1, 1, 0.5], [0, 1, 1, 0.5], [0, 0, 0, 0], [0, 0, 0, 0]])
    assert torch.allclose(box_coverage(box, 4), expected)
    pixels = np.zeros((8, 16), dtype=bool)
    pixels[:4, 4:14] = True
    assert torch.allclose(mask_coverage(encode_rle(pixels), 4), expected)


def example(*boxes, masks=None):
    return Example("1", "patches", (Image.new("RGB", (8, 8)),), "", boxes=boxes, masks=masks or ({},) * len(boxes))


def collator(*names, cells=2):
    pixels = SimpleNamespace(image_processor=lambda images, **_: {"pixel_values": torch.zeros(len(images), 3, 8, 8)})
    return PatchCollator(pixels, names, cells)  # pyright: ignore


def test_shares_are_background_other_things_and_names():
    found = collator("cat", "dog").targets(example(Box(0, 0, 0.5, 0.5, "dog"), Box(0.5, 0, 0.75, 0.5, "cow")))
    shares, boxes, covered = found
    assert torch.allclose(boxes[:2], torch.tensor([[0, 0, 0.5, 0.5], [0.5, 0, 0.75, 0.5]]))
    assert covered.tolist() == [1, 0.5, 0, 0]
    assert torch.allclose(shares, torch.tensor([[0, 0, 0, 1], [0.5, 0.5, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0.0]]))


def test_where_boxes_overlap_things_share_the_patch_and_alike_ones_count_once():
    over = [Box(0, 0, 1, 1, "cat"), Box(0, 0, 1, 0.5, "dog"), Box(0, 0, 0.5, 0.5, "dog")]
    shares, boxes, covered = collator("cat", "dog").targets(example(*over))
    # the first of those that cover as much of the patch
    assert torch.equal(boxes, torch.tensor([[0.0, 0, 1, 1]] * 4))
    assert covered.tolist() == [1, 1, 1, 1]
    assert torch.allclose(shares[0], torch.tensor([0, 0, 0.5, 0.5]))
    assert torch.allclose(shares[2], torch.tensor([0, 0, 1, 0.0]))
    assert torch.allclose(shares.sum(-1), torch.ones(4))


def test_masks_count_where_there_are_some():
    mask = np.zeros((4, 4), dtype=bool)
    mask[:2, :1] = True
    record = {"id": "1", "image": Image.new("RGB", (4, 4))}
    things = [{"names": {"en": "cat"}, "box": Box(0, 0, 0.5, 0.5), "mask": mask}]
    things += [{"names": {"en": "dog"}, "box": Box(0.5, 0.5, 1, 1)}, {"names": {"de": "Kuh"}, "box": Box(0, 0, 1, 1)}]
    rng = np.random.default_rng()
    for use_masks, cat in ((True, 0.5), (False, 1.0)):
        made = Patches(use_masks=use_masks).example(record | {"objects": things}, rng)  # pyright: ignore
        assert made is not None
        shares, _, _ = collator("cat", "dog").targets(made)
        assert shares[0].tolist() == [1 - cat, 0, cat, 0]
        assert shares[3].tolist() == [0, 0, 0, 1]


def test_scores_by_hand():
    shares = torch.tensor([[[1.0, 0, 0], [0, 0, 1], [0.2, 0, 0.8], [0.6, 0, 0.4], [0.98, 0, 0.02]]])
    logits = torch.tensor([[[0.0, 0, 1], [0, 0, 1], [1, 0, 0], [0, 1, 0], [1, 0, 0]]])
    assert patch_scores(logits, shares) == {"patch_accuracy": 0.5, "background_accuracy": 0.5, "accuracy": 0.5}
    nothing = patch_scores(logits[:, 3:4], shares[:, 3:4])
    assert nothing == {"patch_accuracy": 0.0, "background_accuracy": 0.0, "accuracy": 0.0}


def test_the_commonest_names_are_learned():
    things = [["dog", "cat"], ["dog"], ["cow", "cat", "dog"]]
    records = [{"objects": [{"names": {"en": name}} for name in row]} for row in things]
    assert frequent_names(records, "en", 3, 2) == ["cat", "dog"]  # pyright: ignore
    with pytest.raises(ValueError, match="no objects with names in 'de'"):
        frequent_names(records, "de", 3, 2)  # pyright: ignore


def test_the_loss_falls_to_the_entropy_of_the_shares():
    shares = torch.tensor([[[0.5, 0.5, 0], [0, 0, 1]]])
    inputs = {"pixel_values": torch.zeros(1), "shares": shares}
    perfect = torch.nn.Module()
    boxes = torch.tensor([[[0, 0, 0.5, 0.5], [0.0, 0, 0, 0]]])
    perfect.forward = lambda pixels: (shares.clamp(min=1e-30).log(), boxes)  # pyright: ignore
    entropy = 0.5 * np.log(2)
    assert dense.dense_loss(perfect, inputs).item() == pytest.approx(entropy, abs=1e-6)
    # two edges of four are wrong by 0.2, on the one patch that has an object
    targets = {"boxes": boxes + torch.tensor([0, 0, 0.2, 0.2]), "covered": torch.tensor([[1.0, 0]])}
    loss = dense.dense_loss(perfect, inputs | targets, boxes=10).item()
    assert loss == pytest.approx(entropy + 10 * 0.1, abs=1e-5)


def test_written_words_are_objects_when_asked_for():
    words = [{"text": "exit", "box": Box(0, 0, 0.5, 0.5)}, {"text": "lost"}]
    record = {"id": "1", "image": Image.new("RGB", (4, 4)), "objects": [], "words": words}
    made = [Patches(words=use).example(record, np.random.default_rng()) for use in (True, False)]  # pyright: ignore
    assert [[box.label for box in one.boxes] for one in made if one] == [["exit"], []]
    things = [{"objects": [{"names": {"en": "dog"}}], "words": words[:1]}]
    assert frequent_names(things, "en", 1, 9, words=True) == ["dog", "exit"]  # pyright: ignore
    assert frequent_names(things, "en", 1, 9) == ["dog"]  # pyright: ignore


def test_boxes_are_scored_where_an_object_covers_a_patch():
    true = torch.tensor([[[0, 0, 0.5, 0.5], [0, 0, 1, 1]]])
    predicted = torch.tensor([[[0, 0, 0.5, 1], [0.5, 0.5, 0.6, 0.6]]])
    assert box_ious(predicted, true, torch.tensor([[0.8, 0.1]])) == {"box_iou": pytest.approx(0.5)}
    assert box_ious(predicted, true, torch.zeros(1, 2)) == {"box_iou": 0.0}


def test_a_run_with_boxes_and_words_scores_both(stage_0, tmp_path):
    source = "{name: emoji, split: train, size: 48, concepts: 4, objects: [1, 2], words: [1, 2], length: 60}"
    dense.main([*command(stage_0, tmp_path / "run"), "--source", source, "--words", "true", "--boxes", "10"])
    scores = [row for row in read_log(tmp_path / "run" / "logs.jsonl") if "eval_accuracy" in row]
    assert all(0 <= row["eval_box_iou"] <= 1 for row in scores)


def test_it_leaves_a_siglip_model_with_another_tower_and_the_same_texts(stage_0, stage_0b):
    model, before = AutoModel.from_pretrained(stage_0b), SiglipModel.from_pretrained(stage_0)
    assert type(model) is SiglipModel
    config = json.loads((stage_0b / "config.json").read_text())
    assert config["architectures"] == ["SiglipModel"]
    assert "patch_labels" not in config
    moved = {name for name, w in model.state_dict().items() if not torch.equal(w, before.state_dict()[name])}
    assert any("patch_embedding" in name for name in moved)
    assert all(name.startswith("vision_model.") and ".head." not in name for name in moved)
    assert AutoProcessor.from_pretrained(stage_0b).tokenizer("dog") == AutoProcessor.from_pretrained(
        stage_0
    ).tokenizer("dog")
    scores = [row for row in read_log(stage_0b / "logs.jsonl") if "eval_accuracy" in row]
    assert [row["step"] for row in scores] == [1, 2]
    assert {"eval_patch_accuracy", "eval_background_accuracy"} <= set(scores[0])


def test_it_goes_on_from_a_checkpoint_to_the_same_weights(stage_0, stage_0b, tmp_path):
    folder = tmp_path / "again"
    dense.main(command(stage_0, folder))
    shutil.rmtree(folder / "checkpoint-2")
    dense.main(command(stage_0, folder))
    first, second = (load_file(path / "checkpoint-2" / "model.safetensors") for path in (stage_0b, folder))
    assert "patch_head.weight" in first
    assert all(torch.equal(weight, second[name]) for name, weight in first.items())


def test_a_finished_run_started_again_leaves_the_same_folder(stage_0, stage_0b):
    before = SiglipModel.from_pretrained(stage_0b).state_dict()
    dense.main(command(stage_0, stage_0b))
    after = SiglipModel.from_pretrained(stage_0b).state_dict()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())


def test_stage_1_takes_the_tower_and_the_options_for_boxes(stage_0b, tmp_path):
    argv = ["--config", "pali3/nano-located", "--output_dir", str(tmp_path), *COMMON, "--source", EMOJI]
    argv += ["--vision_checkpoint", str(stage_0b), "--model_config", SMALL, "--test_limit", "2"]
    pretrain.main([*argv, "--eval_steps", "2", "--learning_rate", "1e-9"])
    model = AutoModelForImageTextToText.from_pretrained(tmp_path)
    config = model.config
    assert (config.image_positions, config.projector_init, config.tie_word_embeddings) == ("sine", "normal", False)
    tower, trained = model.model.encoder.vision_tower.state_dict(), SiglipModel.from_pretrained(stage_0b)
    assert all(torch.equal(w, trained.vision_model.state_dict()[name]) for name, w in tower.items())
    tokenizer = AutoProcessor.from_pretrained(tmp_path).tokenizer
    ids = tokenizer.convert_tokens_to_ids([location_token(x) for x in (0.5, 0.501, 0.6, 0.9)])
    for table in (model.get_input_embeddings().weight, model.lm_head.weight):
        near, far, farther = (table[ids[1:]] - table[ids[0]]).norm(dim=1).tolist()
        assert near < far < farther
