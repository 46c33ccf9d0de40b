import json
from pathlib import Path
from typing import Any

import pytest
import torch
from coco_files import CocoFiles
from PIL import Image

from openpali import MaskVQVAE
from openpali.modeling.configuration_mask_vqvae import MaskVQVAEConfig


@pytest.fixture(scope="session")
def drawings(tmp_path_factory) -> Path:
    """A cache folder of this test run."""
    return tmp_path_factory.mktemp("drawings")


@pytest.fixture
def write_jsonl(tmp_path):
    """Write records (dicts, or raw lines) beside a good image `good.png`; returns the file."""
    Image.new("RGB", (20, 10), (200, 30, 40)).save(tmp_path / "good.png")

    def write(records: list[Any]) -> Path:
        lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
        (tmp_path / "my.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
        return tmp_path / "my.jsonl"

    return write


@pytest.fixture(scope="session")
def codec(tmp_path_factory) -> str:
    """The folder of a mask VQ-VAE of 16 x 16 masks, whose codes mean nothing."""
    torch.manual_seed(0)
    config = MaskVQVAEConfig(image_size=16, channels=[4, 8], num_residual_blocks=1, codebook_dim=8)
    folder = tmp_path_factory.mktemp("codec") / "tiny"
    MaskVQVAE(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def coco(tmp_path):
    """A small COCO file with its images, and a way to break it."""
    return CocoFiles(tmp_path)
