"""Stage 0 with drawn patch sizes, and the conversion to one of them."""

import json
import os
import shutil
import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForImageClassification, SiglipModel

from openpali.modeling import flexible_patches
from openpali.recipes import classification, contrastive
from openpali.recipes.flexible.step_draw import StepDraw

COMMON = ["--use_cpu", "true", "--tensorboard", "false", "--max_steps", "4", "--eval_steps", "4", "--eval_limit", "4"]
COMMON += ["--source", "{name: emoji, split: train, size: 32, concepts: 4, objects: [1, 1], length: 40}"]
COMMON += ["--logging_steps", "1", "--save_steps", "2", "--learning_rate", "1e-3"]
TOWER = "{hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2"
VISION = ["--vision_config", TOWER + ", image_size: 32, patch_size: 8}"]
NEW = ["--text_config", TOWER + "}", "--vocab_size", "300", "--tokenizer_records", "5", *VISION]
SIZES = ["--patch_sizes", "4", "8", "16"]
BATCH = "--per_device_train_batch_size"


def rows(folder: Path) -> list[dict]:
    return [row for row in map(json.loads, (folder / "logs.jsonl").read_text().splitlines()) if "loss" in row]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("patches") / "whole"
    contrastive.main(["--output_dir", str(folder), *COMMON, *NEW, *SIZES, BATCH, "8"])
    return folder


def resume(recipe, whole: Path, parts: Path, options: list[str]) -> None:
    shutil.copytree(whole, parts)
    # as if it had been killed after its first checkpoint
    for name in ("best", "checkpoint-4"):
        shutil.rmtree(parts / name)
    recipe.main(["--output_dir", str(parts), *COMMON, *options, *SIZES, BATCH, "8", "--resume", "auto"])
    one, two = (load_file(folder / "model.safetensors") for folder in (whole, parts))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_resumed_run_is_the_uninterrupted_one(whole, tmp_path, monkeypatch):
    sizes = []
    resample = flexible_patches.resample_kernel

    def noted(kernel, size):
        sizes.append(size[0])
        return resample(kernel, size)

    monkeypatch.setattr(flexible_patches, "resample_kernel", noted)
    resume(contrastive, whole, tmp_path / "parts", NEW)
    draw = StepDraw("patch_sizes", (4, 8, 16), 42)
    # validation is at the kernel's own size
    assert sizes == [draw.at(2), draw.at(3)]
    model = AutoModel.from_pretrained(whole)
    assert type(model) is SiglipModel
    assert model.config.vision_config.patch_size == 8


def test_converted_to_another_patch_size(whole, tmp_path):
    options = ["--model", str(whole), "--patch_size", "4", "--learning_rate", "1e-9", "--weight_decay", "0"]
    contrastive.main(["--output_dir", str(tmp_path / "small"), *COMMON, *options, "--max_steps", "1", BATCH, "4"])
    model, wanted = AutoModel.from_pretrained(tmp_path / "small"), AutoModel.from_pretrained(whole)
    assert type(model) is SiglipModel
    assert model.config.vision_config.patch_size == 4
    flexible_patches.set_patch_size(wanted, 4)
    pixels = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        found = [one.get_image_features(pixel_values=pixels).last_hidden_state for one in (model, wanted)]
    assert found[0].shape == (2, 64, 16)
    torch.testing.assert_close(*found, atol=1e-4, rtol=0)


def test_classification(tmp_path):
    classification.main(["--output_dir", str(tmp_path / "whole"), *COMMON, *VISION, *SIZES, BATCH, "8"])
    resume(classification, tmp_path / "whole", tmp_path / "parts", VISION)
    assert AutoModelForImageClassification.from_pretrained(tmp_path / "whole").config.vision_config.patch_size == 8


def train(rank: int, processes: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_PORT": port}
    os.environ |= {"MASTER_ADDR": "127.0.0.1"} | {key: str(value) for key, value in place.items()}
    contrastive.main(["--output_dir", str(folder), *COMMON, *NEW, *SIZES, BATCH, "4", "--ddp_backend", "gloo"])


def test_two_processes_train_as_one(whole, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # forked: each would otherwise import the libraries again
    mp.start_processes(train, (2, port, tmp_path / "two"), 2, start_method="fork")  # pyright: ignore
    for one, two in zip(rows(whole), rows(tmp_path / "two"), strict=True):
        for key in ("loss", "grad_norm"):
            assert abs(one[key] - two[key]) < 1e-4 * abs(one[key]), (one, two)
