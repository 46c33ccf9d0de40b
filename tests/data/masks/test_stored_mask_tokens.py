"""Objects that bring the tokens of their masks: `segment` and `refer` write these, where they are of their codec."""

import random
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from openpali import MaskVQVAE
from openpali.data.example import Box
from openpali.data.images.augment import Augment
from openpali.data.masks.mask_tokenizer import codec_name, mask_tokens
from openpali.data.masks.rle import encode_rle
from openpali.data.tasks import load_task
from openpali.modeling.segmentation_tokens import parse_segmentations

OTHER = list(range(100, 116))


def disc(height: int = 48, width: int = 64) -> np.ndarray:
    rows, columns = np.ogrid[:height, :width]
    return (rows - 24) ** 2 + (columns - 20) ** 2 < 200


def record(**others) -> dict:
    box = Box(0.05, 0.15, 0.6, 0.85)
    item = {"names": {"en": "dog"}, "box": box, "mask": encode_rle(disc()), "sentences": {"en": ["the dog"]}} | others
    return {"id": "1", "image": Image.new("RGB", (64, 48)), "objects": [item]}


def codes(task: str, codec: str, data: dict) -> list[int]:
    example = load_task({"name": task, "codec": codec}).example(data, random.Random(0))
    assert example is not None
    ((mask,), rejected) = parse_segmentations(example.suffix)
    assert not rejected
    return list(mask.codes)


@pytest.mark.parametrize("task", ["segment", "refer"])
def test_stored_tokens_are_those_that_the_task_writes(task, codec):
    tokens = mask_tokens(codec, [disc()], [record()["objects"][0]["box"]])[0]
    assert codes(task, codec, record()) == tokens
    # others that are said to be this codec's show that they are not computed again
    assert codes(task, codec, record(mask_tokens=OTHER, mask_codec=codec_name(codec))) == OTHER


def test_tokens_of_another_codec_are_not_used(codec, tmp_path):
    tokens = codes("segment", codec, record())
    assert codes("segment", codec, record(mask_tokens=OTHER, mask_codec="mask-vqvae 0123456789abcdef")) == tokens
    assert codes("segment", codec, record(mask_tokens=OTHER)) == tokens


def test_the_name_is_that_of_the_weights_wherever_they_lie(codec, tmp_path):
    shutil.copytree(codec, tmp_path / "moved")
    assert codec_name(str(tmp_path / "moved")) == codec_name(codec)
    other = MaskVQVAE.from_pretrained(codec)
    with torch.no_grad():
        next(other.parameters())[0] += 1
    other.save_pretrained(tmp_path / "other")
    assert codec_name(str(tmp_path / "other")) != codec_name(codec)


@pytest.mark.parametrize("options", [{"flip": 1}, {"zoom_out": [2, 2]}])
def test_an_augmented_mask_loses_its_tokens(options, codec):
    data = record(mask_tokens=OTHER, mask_codec=codec_name(codec))
    data["objects"][0].pop("sentences")
    (item,) = Augment(**options)(data, random.Random(0))["objects"]
    assert not {"mask_tokens", "mask_codec"} & set(item)
