"""Saved processors load, and images have the same values as far as is said, with torchvision installed or not.

Transformers resizes by torchvision where it is installed, by Pillow where it is not; this file passes in both.
"""

import json
from typing import Any

import pytest
import torch
from PIL import Image
from skimage import data
from transformers import AutoImageProcessor
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from openpali.data.images.preprocess import FastImageProcessor

NAMES = ("SiglipImageProcessor", "SiglipImageProcessorPil")


def photographs() -> list[Image.Image]:
    """Two that are shrunk to 224 pixels, and the same that are enlarged."""
    found = [Image.fromarray(read()) for read in (data.astronaut, data.coffee)]
    return found + [image.resize((96, 80)) for image in found]


@pytest.fixture(params=["pali3", "paligemma"])
def processor(request, tiny_processor, tiny_paligemma):
    return tiny_processor if request.param == "pali3" else tiny_paligemma[1]


def test_what_is_saved_names_the_class_that_both_kinds_of_environment_know(processor, tmp_path):
    for folder in (tmp_path / "first", tmp_path / "second"):
        processor.save_pretrained(folder)
        saved = json.loads((folder / "processor_config.json").read_text())
        assert saved["image_processor"]["image_processor_type"] == NAMES[0]
        # the next one is saved by the class that this environment has chosen
        processor = type(processor).from_pretrained(folder)
    assert (tmp_path / "first/processor_config.json").read_text() == (
        tmp_path / "second/processor_config.json"
    ).read_text()


@pytest.mark.parametrize("name", [*NAMES, "SiglipImageProcessorFast"])
def test_any_name_of_the_class_loads(processor, tmp_path, name):
    processor.save_pretrained(tmp_path)
    path = tmp_path / "processor_config.json"
    path.write_text(path.read_text().replace(f'"{NAMES[0]}"', f'"{name}"'))
    found: Any = type(processor).from_pretrained(tmp_path)
    assert type(found.image_processor).__name__ in NAMES
    image = photographs()[0]
    ours, theirs = (x(images=[[image]], text=["what is this"], return_tensors="pt") for x in (processor, found))
    assert torch.equal(ours["input_ids"], theirs["input_ids"])
    assert float((ours["pixel_values"] - theirs["pixel_values"]).abs().max()) < 2.01 / 127.5


@pytest.mark.parametrize("resample", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC])
def test_the_class_that_transformers_chooses_resizes_as_one_of_our_two_ways(tmp_path, resample):
    pillow: Any = SiglipImageProcessorPil(size={"height": 224, "width": 224}, resample=resample)
    pillow.save_pretrained(tmp_path)
    chosen = AutoImageProcessor.from_pretrained(tmp_path)
    exact, quick = (FastImageProcessor(pillow, way).pixel_values(photographs()) for way in (True, False))
    alike = quick if type(chosen).__name__ == NAMES[0] else exact
    found = chosen(photographs(), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(found, alike, rtol=0, atol=1e-6)
    # training as for evaluation is what the chosen class does
    found = FastImageProcessor(chosen)(photographs(), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(found, alike, rtol=0, atol=1e-6)
    levels = (exact - quick).abs() * 127.5
    # as docs/data.md has it
    assert 0 < float(levels.max()) < 1.01
    assert float((levels > 0.5).float().mean()) < 0.01
