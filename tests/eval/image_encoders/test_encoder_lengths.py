"""NaFlex encoders at several numbers of image tokens."""

import json

import pytest
from PIL import Image
from tiny_siglip import save_square_and_naflex

from openpali.data.images.naflex import NaFlexImageProcessor
from openpali.eval import encoders
from openpali.eval.image_encoders.models import load_encoder


class Stripes:
    """Wide images of two colours, and their names."""

    name, credits = "stripes", ""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        colour = ("red", "blue")[index % 2]
        image = Image.new("RGB", (60, 20), colour)
        image.paste("white", (5 * index, 0, 5 * index + 4, 20))
        return {"id": str(index), "image": image, "captions": {"en": f"{colour} {index}"}, "concept": colour}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders")
    model, own = save_square_and_naflex(folder)
    model.vision_model.save_pretrained(folder / "tower")
    own.save_pretrained(folder / "tower")
    return folder


@pytest.mark.parametrize(("image_tokens", "grid"), [(None, [2, 6]), (3, [1, 3]), (40, [4, 10])])
def test_number_of_tokens(folder, image_tokens, grid):
    for name in ("naflex", "tower"):
        encoder = load_encoder(str(folder / name), "cpu", image_tokens=image_tokens)
        inputs = encoder.image_processor(Stripes()[0]["image"], return_tensors="pt")
        assert inputs["spatial_shapes"].tolist() == [grid]
        assert inputs["pixel_values"].shape[1] == (image_tokens or 12)
        assert isinstance(encoder.image_processor, NaFlexImageProcessor)


def measured(folder, output, monkeypatch, model, *more):
    monkeypatch.setattr(encoders, "load_source", lambda spec: Stripes())
    argv = ["--model", str(folder / model), "--source", "stripes", "--output", str(output), "--device", "cpu"]
    encoders.main([*argv, "--shots", "2", *more])
    return json.loads((output / "metrics.json").read_text())


def test_all_tasks_beside_a_square_encoder(folder, tmp_path, monkeypatch):
    found = measured(
        folder, tmp_path, monkeypatch, "naflex", "--image_tokens", "3", "--compare", str(folder / "square")
    )
    assert found["arguments"]["image_tokens"] == 3
    assert {"retrieval", "zero_shot", "probe"} <= {key for key, value in found.items() if value}


def test_square_encoders_have_a_fixed_number(folder, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="--image_tokens is for NaFlex encoders"):
        measured(folder, tmp_path, monkeypatch, "square", "--image_tokens", "3")
    with pytest.raises(SystemExit, match="--image_tokens is at least 1, not 0"):
        measured(folder, tmp_path, monkeypatch, "naflex", "--image_tokens", "0")
