"""NaFlex preprocessing against outputs of the authors' code."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, Siglip2VisionConfig, Siglip2VisionModel
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

from openpali.data.images import naflex
from openpali.data.images.naflex import NaFlexImageProcessor, resize, target_size, to_patches
from openpali.data.images.open_image import BadImage

# float32 filters there, float32 here, over up to 40 pixels
CLOSE = 1e-4


@pytest.fixture(scope="module")
def authors():
    with np.load("tests/fixtures/naflex_sizes.npz") as file:
        return dict(file)


def cases(authors):
    return json.loads(str(authors["meta_json"]))["images"]


@pytest.mark.parametrize("patch", [16, 14])
def test_target_sizes_to_the_pixel(authors, patch):
    budgets = json.loads(str(authors["meta_json"]))["max_sequence_lens"]
    wanted = authors[f"out/target_hw_p{patch}"]
    found = [[target_size(*size, patch, n) for n in budgets] for size in authors["in/image_hw"].tolist()]
    assert np.array_equal(np.array(found), wanted)


def test_patches_masks_and_grids(authors):
    processor = NaFlexImageProcessor()
    for k, case in enumerate(cases(authors)):
        options = {"patch_size": case["patch"], "max_num_patches": case["max_sequence_len"], "return_tensors": "pt"}
        batch = processor(Image.fromarray(authors[f"in/img{k}"]), **options)
        torch.testing.assert_close(
            batch["pixel_values"][0], torch.tensor(authors[f"out/img{k}/patches"]), atol=CLOSE, rtol=0
        )
        assert batch["pixel_attention_mask"][0].tolist() == authors[f"out/img{k}/type"].tolist()
        assert batch["spatial_shapes"].tolist() == [case["grid"]]
        rows, columns = case["grid"]
        places = [divmod(i, columns) for i in range(rows * columns)]
        assert [row for row, _ in places] == authors[f"out/img{k}/yidx"][: len(places)].tolist()
        assert [column for _, column in places] == authors[f"out/img{k}/xidx"][: len(places)].tolist()


def test_differs_from_the_stock_class_by_rounding_to_levels_alone(authors):
    stock, ours = Siglip2ImageProcessorPil(), NaFlexImageProcessor()
    for k, case in enumerate(cases(authors)):
        options = {"patch_size": case["patch"], "max_num_patches": case["max_sequence_len"], "return_tensors": "pt"}
        image = Image.fromarray(authors[f"in/img{k}"])
        one, other = stock(image, **options), ours(image, **options)
        assert {key: (v.dtype, v.shape) for key, v in one.items()} == {k: (v.dtype, v.shape) for k, v in other.items()}
        # one level of 0 to 255, in the range from -1 to 1
        assert (one["pixel_values"] - other["pixel_values"]).abs().max() < 1.001 / 127.5
        for key in ("pixel_attention_mask", "spatial_shapes"):
            assert torch.equal(one[key], other[key])


def test_saves_the_file_of_the_stock_class_and_loads_it(tmp_path):
    ours = NaFlexImageProcessor(patch_size=8, max_num_patches=20)
    ours.save_pretrained(tmp_path)
    stock = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(stock).__name__.startswith("Siglip2ImageProcessor")
    assert stock.max_num_patches == 20
    assert NaFlexImageProcessor.from_pretrained(tmp_path).to_dict() == ours.to_dict()
    Siglip2ImageProcessorPil(patch_size=8, max_num_patches=20).save_pretrained(tmp_path)
    published = AutoImageProcessor.from_pretrained(tmp_path)
    assert NaFlexImageProcessor.of(published).to_dict() == ours.to_dict()


def test_a_stock_tower_takes_the_batch_and_padding_does_not_matter():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    tower = Siglip2VisionModel(Siglip2VisionConfig(**sizes, patch_size=8, num_patches=16)).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 64, 3), dtype=np.uint8)
    images = [Image.fromarray(pixels), Image.fromarray(pixels[:, :24])]
    processor = NaFlexImageProcessor(patch_size=8)
    with torch.no_grad():
        exactly = tower(**processor(images, max_num_patches=24, return_tensors="pt"))
        batch = processor(images, max_num_patches=24, return_tensors="pt")
        more = {key: value.clone() for key, value in batch.items()}
        more["pixel_values"][more["pixel_attention_mask"] == 0] = 9.0
        padded = tower(**more)
    assert batch["spatial_shapes"].tolist() == [[3, 8], [4, 4]]
    torch.testing.assert_close(exactly.pooler_output, padded.pooler_output)


def test_grey_images_and_lists():
    batch = NaFlexImageProcessor(patch_size=8)([Image.new("L", (40, 30), 255)], max_num_patches=16)
    assert np.array(batch["pixel_values"]).shape == (1, 16, 192)
    rows, columns = batch["spatial_shapes"][0]
    assert np.array(batch["pixel_values"])[0, : rows * columns].min() == pytest.approx(1)


def test_bad_sizes_are_told(monkeypatch):
    with pytest.raises(BadImage, match="does not fit into 1 patches; crop it"):
        target_size(3_000_000, 4, 16, 1)
    with pytest.raises(BadImage, match="no pixels"):
        target_size(0, 4, 16, 1)
    with pytest.raises(ValueError, match="at least 1 of each"):
        target_size(4, 4, 16, 0)
    with pytest.raises(ValueError, match="cannot be cut into patches of 16"):
        to_patches(torch.zeros(3, 20, 32), 16)
    with pytest.raises(ValueError, match="6 patches of an image that is not resized, of 5 at most"):
        NaFlexImageProcessor(patch_size=8)(Image.new("RGB", (24, 16)), do_resize=False, max_num_patches=5)
    with pytest.raises(ValueError, match="resample=0"):
        NaFlexImageProcessor()(Image.new("RGB", (24, 16)), resample=0)
    monkeypatch.setattr(naflex, "MAX_PIXELS", 99)
    with pytest.raises(BadImage, match="10x10 pixels: 99 are read at most"):
        NaFlexImageProcessor()(Image.new("RGB", (10, 10)))


def test_an_image_of_its_target_size_is_left_as_it_is():
    image = torch.rand(3, 32, 48)
    assert resize(image, (32, 48)) is image
    assert target_size(256, 256, 16, 256) == (256, 256)
