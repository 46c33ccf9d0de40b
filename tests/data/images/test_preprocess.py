import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from openpali.data.collator import Collator
from openpali.data.example import Example
from openpali.data.images.open_image import load_image
from openpali.data.images.preprocess import FastImageProcessor, pixels, with_fast_images


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """Soft shapes and some noise, so that every step of resizing and of JPEG counts."""
    rng = np.random.default_rng(seed)
    shapes = rng.integers(0, 256, (height // 16, width // 16, 3), np.uint8)
    soft = np.asarray(Image.fromarray(shapes).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray(np.clip(soft + rng.integers(-10, 11, soft.shape), 0, 255).astype(np.uint8))


IMAGES = [photograph(96, 64), photograph(33, 200, 1), photograph(48, 32, 2)]


def processor(**options: Any) -> SiglipImageProcessorPil:
    settings: Any = {"size": {"height": 32, "width": 48}} | options
    return SiglipImageProcessorPil(**settings)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"resample": Image.Resampling.BILINEAR, "image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]},
        {"resample": Image.Resampling.LANCZOS, "do_normalize": False},
        {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3},
    ],
)
def test_exact_values_are_those_of_the_stock_call(options):
    stock = processor(**options)
    expected = stock(IMAGES, return_tensors="pt")["pixel_values"]
    found = FastImageProcessor(stock)(IMAGES, return_tensors="pt")["pixel_values"]
    assert found.dtype == torch.float32
    assert found.shape == (3, 3, 32, 48)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("resample", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC])
def test_torch_resizing_is_off_by_a_level_here_and_there(resample):
    stock = processor(resample=resample)
    expected = stock(IMAGES, return_tensors="pt")["pixel_values"]
    off = (FastImageProcessor(stock, exact=False)(IMAGES)["pixel_values"] - expected).abs() * 127.5
    assert off.max() < 2.01
    shrunk = [photograph(320, 240)]
    off = (
        FastImageProcessor(stock, exact=False)(shrunk)["pixel_values"]
        - stock(shrunk, return_tensors="pt").pixel_values
    )
    assert ((off.abs() * 127.5) > 0.01).float().mean() < 0.01
    # a filter that torch does not have is Pillow's
    lanczos = processor(resample=Image.Resampling.LANCZOS)
    expected = lanczos(IMAGES, return_tensors="pt")["pixel_values"]
    found = FastImageProcessor(lanczos, exact=False)(IMAGES)["pixel_values"]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "call", "images"),
    [
        ({"size": {"shortest_edge": 32}}, {}, [IMAGES[0]]),
        ({"do_center_crop": True, "crop_size": {"height": 16, "width": 16}}, {}, IMAGES),
        ({"do_rescale": False}, {}, IMAGES),
        ({"do_resize": False}, {}, [IMAGES[0]]),
        ({}, {"image_mean": [0.0] * 3}, IMAGES),
        ({}, {"size": {"height": 16, "width": 16}}, IMAGES),
        ({}, {}, [IMAGES[0].convert("L")]),
        ({}, {}, [np.asarray(IMAGES[0])]),
        ({}, {}, IMAGES[0]),
    ],
)
def test_what_is_unusual_has_the_values_of_the_stock_call(settings, call, images):
    stock = processor(**settings)
    expected = stock(images, return_tensors="pt", **call)["pixel_values"]
    for exact in (True, False):
        found = FastImageProcessor(stock, exact)(images, return_tensors="pt", **call)["pixel_values"]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 if exact else 2.01 / 127.5)


def test_pixels_are_seen_where_they_lie():
    for image in (IMAGES[0], IMAGES[1].crop((3, 5, 20, 90)), Image.new("RGB", (2100, 2000), (1, 2, 3))):
        array = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        assert torch.equal(pixels(image)[:3], array)
    image = IMAGES[0].copy()
    view = pixels(image)
    image.putpixel((2, 1), (7, 8, 9))
    assert view[:3, 1, 2].tolist() == [7, 8, 9]
    # they outlive the image
    del image
    assert view[:3, 1, 2].tolist() == [7, 8, 9]


def test_other_classes_are_left_alone():
    class Own(SiglipImageProcessorPil):
        def resize(self, image, *args, **kwargs):
            return np.zeros((3, 2, 2), np.uint8)

    assert FastImageProcessor(Own())(IMAGES, return_tensors="pt")["pixel_values"].shape == (3, 3, 2, 2)
    assert with_fast_images("a recorder") == "a recorder"


def test_the_collator_takes_the_fast_way_and_leaves_the_processor_alone(tiny_processor, tiny_paligemma, monkeypatch):
    examples = [
        Example("1", "plain", (IMAGES[0],), "what is this", "a red dog"),
        Example("2", "plain", tuple(IMAGES), "detect dog", "two green cats"),
    ]
    for real in (tiny_processor, tiny_paligemma[1]):
        images = [list(example.images) for example in examples]
        texts = {"text": [e.prefix for e in examples], "suffix": [e.suffix for e in examples]}
        expected = real(images=images, **texts, padding=True, return_tensors="pt")
        with monkeypatch.context() as patch:
            patch.setattr(SiglipImageProcessorPil, "__call__", lambda *_, **__: pytest.fail("the stock call was made"))
            batches = [Collator(real, exact_images=exact)(examples) for exact in (True, False)]
        for batch, tolerance in zip(batches, (1e-6, 2.01 / 127.5)):
            assert set(batch) == set(expected)
            torch.testing.assert_close(batch["pixel_values"], expected["pixel_values"], rtol=0, atol=tolerance)
            for key in set(expected) - {"pixel_values"}:
                assert torch.equal(batch[key], expected[key])
        assert type(real.image_processor) is SiglipImageProcessorPil


def test_loader_workers_give_the_same_batches(tiny_processor):
    examples = [Example(str(i), "plain", (image,), "what is this", "a red dog") for i, image in enumerate(IMAGES)]
    batches = []
    for workers in (0, 2):
        data: Any = examples
        loader = DataLoader(data, batch_size=2, collate_fn=Collator(tiny_processor), num_workers=workers)
        batches.append([batch["pixel_values"] for batch in loader])
    for alone, sent in zip(*batches, strict=True):
        assert torch.equal(alone, sent)
        assert sent.is_shared()


@pytest.mark.parametrize("size", [(640, 480), (1200, 900)])
def test_a_jpeg_decoded_for_a_size_stays_close(size):
    buffer = io.BytesIO()
    photograph(*size).save(buffer, "JPEG", quality=90)
    full, reduced = load_image(buffer.getvalue()), load_image(buffer.getvalue(), decode_size=112)
    assert full.size == size
    assert reduced.size == ((320, 240) if size == (640, 480) else (300, 225))
    stock = processor(size={"height": 112, "width": 112})
    expected, found = (stock([image], return_tensors="pt")["pixel_values"] for image in (full, reduced))
    off = (found - expected).abs() * 127.5
    assert 0 < off.mean() < 1
    assert off.max() < 8
    # too small to be decoded at half its size, and a format that knows no such thing
    assert load_image(buffer.getvalue(), decode_size=400).size == size
    assert load_image(full, decode_size=56).size == size
