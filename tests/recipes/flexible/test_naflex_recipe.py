"""Stage 0 with NaFlex: what stock Transformers loads, drawn lengths, resumption, and two processes."""

import json
import os
import shutil
import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor, Siglip2Model

from openpali.recipes import contrastive
from openpali.recipes.flexible.images import NaFlexImages
from openpali.recipes.flexible.step_draw import StepDraw

EMOJI = "{name: emoji, split: train, size: 64, concepts: 4, objects: [1, 1], length: 40, aspect: [0.33, 3]}"
COMMON = ["--use_cpu", "true", "--tensorboard", "false", "--max_steps", "4", "--eval_steps", "4", "--eval_limit", "4"]
COMMON += ["--logging_steps", "1", "--source", EMOJI, "--save_steps", "2", "--learning_rate", "1e-3"]
TOWER = "{hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2"
NEW = ["--text_config", TOWER + "}", "--vocab_size", "300", "--tokenizer_records", "5"]
NEW += ["--vision_config", TOWER + ", image_size: 32, patch_size: 8}"]
NAFLEX = ["--naflex", "true", "--sequence_lengths", "6", "12", "20"]
BATCH = "--per_device_train_batch_size"


def rows(folder: Path) -> list[dict]:
    return [row for row in map(json.loads, (folder / "logs.jsonl").read_text().splitlines()) if "loss" in row]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("naflex") / "whole"
    contrastive.main(["--output_dir", str(folder), *COMMON, *NEW, *NAFLEX, BATCH, "8"])
    return folder


def test_stock_transformers_loads_towers_and_processor(whole):
    model, processor = AutoModel.from_pretrained(whole), AutoProcessor.from_pretrained(whole)
    assert type(model) is Siglip2Model
    assert model.config.vision_config.num_patches == 16
    images = [Image.new("RGB", (90, 30), "red"), Image.new("RGB", (30, 80), "blue")]
    inputs = processor(images=images, text=["dog", "cat"], padding="max_length", return_tensors="pt")
    assert inputs["pixel_values"].shape == (2, 20, 192)
    assert inputs["spatial_shapes"].tolist() == [[2, 6], [6, 3]]
    inputs.pop("attention_mask", None)
    with torch.no_grad():
        assert model(**inputs).logits_per_image.isfinite().all()


def test_resumed_run_is_the_uninterrupted_one(whole, tmp_path, monkeypatch):
    drawn = []
    images = NaFlexImages.__call__

    def noted(self, examples):
        found = images(self, examples)
        drawn.append((examples[0].meta.get("optimizer_step"), found["pixel_values"].shape[1]))
        return found

    monkeypatch.setattr(NaFlexImages, "__call__", noted)
    parts = shutil.copytree(whole, tmp_path / "parts")
    # as if it had been killed after its first checkpoint
    for name in ("best", "checkpoint-4"):
        shutil.rmtree(parts / name)
    contrastive.main(["--output_dir", str(parts), *COMMON, *NEW, *NAFLEX, BATCH, "8", "--resume", "auto"])
    one, two = (load_file(folder / "model.safetensors") for folder in (whole, parts))
    assert all(torch.equal(one[name], two[name]) for name in one)
    wanted = StepDraw("sequence_lengths", (6, 12, 20), 42)
    assert {(step, length) for step, length in drawn if step in (2, 3)} == {(s, wanted.at(s)) for s in (2, 3)}
    # outside training the longest
    assert {length for step, length in drawn if step is None} == {20}


def train(rank: int, processes: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_PORT": port}
    os.environ |= {"MASTER_ADDR": "127.0.0.1"} | {key: str(value) for key, value in place.items()}
    contrastive.main(["--output_dir", str(folder), *COMMON, *NEW, *NAFLEX, BATCH, "4", "--ddp_backend", "gloo"])


def test_two_processes_train_as_one(whole, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # forked: each would otherwise import the libraries again
    mp.start_processes(train, (2, port, tmp_path / "two"), 2, start_method="fork")  # pyright: ignore
    one, two = rows(whole), rows(tmp_path / "two")
    assert [row["step"] for row in two] == [1, 2, 3, 4]
    for left, right in zip(one, two, strict=True):
        for key in ("loss", "grad_norm"):
            assert abs(left[key] - right[key]) < 1e-4 * abs(left[key]), (left, right)


def test_a_square_model_goes_on_with_naflex(tmp_path, capsys):
    contrastive.main(["--output_dir", str(tmp_path / "square"), *COMMON, *NEW, BATCH, "4", "--max_steps", "1"])
    square = AutoModel.from_pretrained(tmp_path / "square")
    options = ["--model", str(tmp_path / "square"), "--naflex", "true", BATCH, "4", "--max_steps", "1"]
    contrastive.main(["--output_dir", str(tmp_path / "long"), *COMMON, *options, "--learning_rate", "1e-9"])
    model = AutoModel.from_pretrained(tmp_path / "long")
    assert type(model) is Siglip2Model
    places = (one.vision_model.embeddings.position_embedding.weight for one in (square, model))
    torch.testing.assert_close(*places, atol=1e-6, rtol=0)
    assert AutoProcessor.from_pretrained(tmp_path / "long").image_processor.max_num_patches == 16
    options = ["--model", str(tmp_path / "long"), "--sequence_lengths", "9", BATCH, "4", "--max_steps", "1"]
    contrastive.main(["--output_dir", str(tmp_path / "longer"), *COMMON, *options])
    assert AutoProcessor.from_pretrained(tmp_path / "longer").image_processor.max_num_patches == 9
    for options, message in (
        (["--image_size", "64"], "image_size: towers with NaFlex take images of any size"),
        (["--patch_size", "4"], "towers with NaFlex have one patch size"),
    ):
        with pytest.raises(SystemExit, match=message):
            contrastive.main(
                ["--output_dir", str(tmp_path / "x"), *COMMON, "--model", str(tmp_path / "long"), *options]
            )


def test_mistakes(tmp_path):
    for options, message in (
        (["--sequence_lengths", "9"], "sequence_lengths: these towers take square images; add --naflex true"),
        (["--naflex", "true", "--image_size", "64"], "naflex: leave out vision_checkpoint and image_size"),
        (["--naflex", "true", "--sequence_lengths", "0", "4"], "sequence_lengths: numbers from 1 up"),
        (["--naflex", "true", "--patch_sizes", "4"], "towers with NaFlex have one patch size"),
        (["--patch_size", "4"], "patch_size converts a model"),
        (["--patch_sizes", "4", "64"], "a patch of 64 pixels: from 1 to the image's 32 pixels"),
    ):
        with pytest.raises(SystemExit, match=message):
            contrastive.main(["--output_dir", str(tmp_path / "run"), *COMMON, *NEW, *options, "--overwrite", "true"])
