"""NaFlex towers for pretraining: their loss, their start from square towers, and their stock result."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_siglip import PATCH, SIDE, SIZES, tiny_siglip
from tolerances import assert_same_but_rounding
from transformers import AutoModel, Siglip2Model
from transformers.models.siglip2.modeling_siglip2 import Siglip2VisionEmbeddings

from openpali.data.images.naflex import NaFlexImageProcessor
from openpali.modeling.image_patches import encode_patches, resize_positions
from openpali.modeling.modeling_siglip2 import Siglip2ForContrastiveLearning, naflex_config, to_naflex


@pytest.fixture(scope="module")
def square():
    return tiny_siglip()


def pictures(*sizes):
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for h, w in sizes]


def batch(images, length, texts):
    processor = NaFlexImageProcessor(patch_size=PATCH)
    return dict(processor(images, max_num_patches=length, return_tensors="pt").items()) | {"input_ids": texts}


def tiny_naflex(square, **options):
    model = to_naflex(square[0], Siglip2ForContrastiveLearning)
    for name, value in options.items():
        setattr(model, name, value)
    return model


def test_square_towers_compute_the_same_with_naflex(square):
    model, processor = square
    images = pictures((SIDE, SIDE), (SIDE, SIDE))
    with torch.no_grad():
        wanted = model.get_image_features(**processor.image_processor(images, return_tensors="pt"))
        inputs = NaFlexImageProcessor(patch_size=PATCH, max_num_patches=4)(images, return_tensors="pt")
        found = to_naflex(model).get_image_features(**inputs)
    assert inputs["spatial_shapes"].tolist() == [[2, 2], [2, 2]]
    assert_same_but_rounding(found.pooler_output, wanted.pooler_output)
    assert_same_but_rounding(found.last_hidden_state, wanted.last_hidden_state)


def triangles(old, new):
    """float[new, old]: the weights of an antialiased bilinear resize of one axis, with half-pixel centres."""
    scale = old / new
    centres = (torch.arange(new)[:, None] + 0.5) * scale - 0.5
    weights = (1 - (torch.arange(old) - centres).abs() / max(scale, 1)).clamp(min=0)
    return weights / weights.sum(1, keepdim=True)


def resized_by_hand(table, shapes, length):
    rows = []
    for height, width in shapes.tolist():
        sides = (triangles(old, new) for old, new in zip(table.shape, (height, width)))
        own = torch.einsum("hr,wc,rcd->hwd", *sides, table).flatten(0, 1)
        rows.append(torch.cat([own, own[:1].expand(length - len(own), -1)]))
    return torch.stack(rows)


@pytest.mark.parametrize("reference", [Siglip2VisionEmbeddings.resize_positional_embeddings, resized_by_hand])
def test_positions_are_those_of_the_reference_with_their_gradients(reference):
    shapes = [[2, 5], [3, 3], [2, 5], [1, 10]]
    # one column, of which Transformers 5.23 computes other numbers (PyTorch's fault, see `resize_square`)
    shapes = torch.tensor(shapes + [[6, 1]] * (reference is resized_by_hand))
    results = []
    for resize in (reference, resize_positions):
        table = torch.randn(4, 4, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
        found = resize(table, shapes, 12)
        (found * torch.linspace(0, 1, found.numel()).reshape(found.shape)).sum().backward()
        results.append((found, table.grad))
    for found, wanted in zip(results[1], results[0]):
        assert_same_but_rounding(found, wanted)


def test_vision_language_models_embed_images_one_patch_wide_rightly(square):
    tower = to_naflex(square[0]).vision_model
    patches, shapes = torch.randn(2, 6, 3 * PATCH**2), torch.tensor([[6, 1], [2, 3]])
    table = tower.embeddings.position_embedding.weight.detach().reshape(2, 2, -1)
    with torch.no_grad():
        wanted = tower.embeddings.patch_embedding(patches)
        wanted = wanted + resized_by_hand(table, shapes, 6)
        found = encode_patches(tower, patches, shapes, output_hidden_states=True).hidden_states[0]
    assert_same_but_rounding(found, wanted)


def test_the_loss_is_the_stock_one(square):
    model = tiny_naflex(square)
    inputs = batch(pictures((20, 60), (50, 20), (16, 16)), 9, torch.randint(0, 99, (3, 8)))
    with torch.no_grad():
        found = model(**inputs)
        wanted = Siglip2Model.forward(model, **inputs, return_loss=True)
    assert_same_but_rounding(found.loss, wanted.loss)
    assert_same_but_rounding(found.image_embeds, wanted.image_embeds)


def test_padding_changes_neither_loss_nor_gradients(square):
    texts = torch.randint(0, 99, (2, 8))
    results = []
    for length, filling in ((8, 0.0), (8, 5.0), (12, 0.0)):
        model = tiny_naflex(square)
        # 2 x 4 and 3 x 2 patches without any resizing
        sizes = {"do_resize": False, "max_num_patches": length, "return_tensors": "pt"}
        processor = NaFlexImageProcessor(patch_size=PATCH)
        inputs = dict(processor(pictures((16, 32), (24, 16)), **sizes).items()) | {"input_ids": texts}
        inputs["pixel_values"][inputs["pixel_attention_mask"] == 0] = filling
        loss = model(**inputs).loss
        loss.backward()
        kernel = model.vision_model.embeddings
        results.append((loss.detach(), kernel.patch_embedding.weight.grad, kernel.position_embedding.weight.grad))
    for other in results[1:]:
        for found, wanted in zip(other, results[0]):
            assert_same_but_rounding(found, wanted)


def test_the_result_is_a_stock_model(square, tmp_path):
    text = SIZES | {"vocab_size": 99, "max_position_embeddings": 8, "projection_size": 16}
    config = naflex_config(SIZES | {"image_size": 24, "patch_size": PATCH}, text)
    config.token_bottleneck, config.contrastive_loss = 4, "softmax"
    torch.manual_seed(0)
    model = Siglip2ForContrastiveLearning.from_towers(config, 20.0, -5.0).eval()
    model.save_pretrained(tmp_path / "own")
    again = Siglip2ForContrastiveLearning.from_pretrained(tmp_path / "own")
    assert (again.kind, again.config.vision_config.num_patches) == ("softmax", 9)
    model.stock().save_pretrained(tmp_path / "stock")
    stock = AutoModel.from_pretrained(tmp_path / "stock")
    assert type(stock) is Siglip2Model
    inputs = batch(pictures((20, 60), (50, 20)), 9, torch.randint(0, 99, (2, 8)))
    with torch.no_grad():
        assert_same_but_rounding(stock(**inputs).text_embeds, model(**inputs).text_embeds)
    assert stock.logit_scale.exp().item() == pytest.approx(20)
