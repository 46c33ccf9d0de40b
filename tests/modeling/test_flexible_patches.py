"""FlexiViT against outputs and gradients of the authors' code, and conversion to another patch size."""

import json

import numpy as np
import pytest
import torch
from tiny_siglip import random_images, tiny_siglip
from transformers import SiglipModel, SiglipVisionConfig, SiglipVisionModel

from openpali.modeling.flexible_patches import (
    at_patch_size,
    axis_matrix,
    make_flexible,
    resample_kernel,
    resize_to_grid,
    set_patch_size,
)
from openpali.modeling.image_patches import antialiased_axis
from openpali.modeling.resolution import set_image_size

WIDTH, HEADS = 32, 4


@pytest.fixture(scope="module")
def authors():
    with np.load("tests/fixtures/flexi_patch_embed.npz") as file:
        return {key: torch.tensor(value) if value.dtype.kind == "f" else value for key, value in file.items()}


@pytest.fixture(scope="module")
def model(authors):
    """The authors' weights in a stock tower, made flexible; token and classifier lie beside it."""
    config = SiglipVisionConfig(
        hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=2, num_attention_heads=HEADS, image_size=56,
        patch_size=8, vision_use_head=False,
    )  # fmt: skip
    tower = SiglipVisionModel(config)
    tower.load_state_dict(dict(stock_weights(authors, "params")))
    make_flexible(tower)
    return tower


def stock_weights(authors, kind):
    """Names and shapes of Transformers."""
    get = lambda name: authors[f"{kind}/{name}"]  # noqa: E731
    yield "embeddings.patch_embedding.weight", get("embedding/kernel").permute(3, 2, 0, 1)
    yield "embeddings.patch_embedding.bias", get("embedding/bias")
    yield "embeddings.position_embedding.weight", get("pos_embedding")[0]
    norms = [("post_layernorm", "Transformer/encoder_norm")]
    for i in range(2):
        layer, block = f"encoder.layers.{i}", f"Transformer/encoderblock_{i}"
        norms += [(f"{layer}.layer_norm{n + 1}", f"{block}/LayerNorm_{n}") for n in (0, 1)]
        for n in (0, 1):
            yield f"{layer}.mlp.fc{n + 1}.weight", get(f"{block}/MlpBlock_0/Dense_{n}/kernel").T
            yield f"{layer}.mlp.fc{n + 1}.bias", get(f"{block}/MlpBlock_0/Dense_{n}/bias")
        for ours, theirs in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("out_proj", "out")):
            place = f"{block}/MultiHeadDotProductAttention_0/{theirs}"
            kernel = get(f"{place}/kernel").reshape(WIDTH, WIDTH)
            yield f"{layer}.self_attn.{ours}.weight", kernel.T
            yield f"{layer}.self_attn.{ours}.bias", get(f"{place}/bias").flatten()
    for ours, theirs in norms:
        yield f"{ours}.weight", get(f"{theirs}/scale")
        yield f"{ours}.bias", get(f"{theirs}/bias")


def run(model, authors, images, token, head):
    """Patches with positions, the class token after the last norm, and logits."""
    patches = model.embeddings(images.permute(0, 3, 1, 2))
    hidden = torch.cat([token.expand(len(images), 1, WIDTH), patches], 1)
    hidden = model.post_layernorm(model.encoder(inputs_embeds=hidden).last_hidden_state)
    return patches, hidden[:, 0], hidden[:, 0] @ head + authors["params/head/bias"]


def test_kernels(authors):
    names = [name for name in authors if name.startswith("out/kernel/")]
    assert len(names) == 11
    for name in names:
        _, _, source, size = name.split("/")
        kernel = authors[f"in/kernel/{source}"].permute(3, 2, 0, 1)
        found = resample_kernel(kernel, tuple(int(n) for n in size.split("x")))
        torch.testing.assert_close(found.permute(2, 3, 1, 0), authors[name], atol=1e-4, rtol=0)
    kernel = authors["in/kernel/k16"].permute(3, 2, 0, 1)
    assert resample_kernel(kernel, (16, 16)) is kernel


def test_position_embeddings(authors):
    for name in [name for name in authors if name.startswith("out/posemb/")]:
        rows, columns = (int(n) for n in name.rsplit("to")[-1].split("x"))
        found = resize_to_grid(authors[name.replace("out/", "in/")][0], (rows, columns))
        torch.testing.assert_close(found, authors[name][0], atol=1e-5, rtol=0)


def test_the_whole_model_at_every_grid(authors, model):
    runs = json.loads(str(authors["meta_json"]))["forward"][0]["runs"]
    assert len(runs) == 7
    for case in runs:
        image = "x".join(map(str, case["image"]))
        with torch.no_grad(), at_patch_size(model, tuple(case["patch"])):
            found = run(
                model, authors, authors[f"in/image_{image}"], authors["params/cls"], authors["params/head/kernel"]
            )
        for value, name in zip(found, ("with_posemb", "pre_logits", "logits")):
            wanted = authors[f"out/{image}_seqhw{case['seqhw']}/{name}"]
            torch.testing.assert_close(value, wanted, atol=1e-4, rtol=0)


def test_gradients_reach_the_stored_kernel(authors, model):
    token, head = (authors[f"params/{name}"].clone().requires_grad_() for name in ("cls", "head/kernel"))
    model.zero_grad()
    with at_patch_size(model, 12):
        logits = run(model, authors, authors["in/image_48x48"], token, head)[2]
    (logits * authors["in/grad_cotangent"]).sum().backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    wanted = dict(stock_weights(authors, "grad")) | {"token": authors["grad/cls"], "head": authors["grad/head/kernel"]}
    found |= {"token": token.grad, "head": head.grad}
    assert set(found) == set(wanted)
    for name, gradient in wanted.items():
        # relative to the largest, since a bias of all keys has a gradient of rounding alone
        torch.testing.assert_close(found[name], gradient, atol=1e-3 * max(gradient.abs().max(), 1e-2), rtol=0)


def test_a_converted_encoder_is_the_flexible_one_at_that_size(tmp_path):
    model, processor = tiny_siglip()
    pixels = processor.image_processor(random_images(3), return_tensors="pt")["pixel_values"]
    make_flexible(model)
    with torch.no_grad():
        base = model.get_image_features(pixel_values=pixels).pooler_output
        with at_patch_size(model, 4):
            drawn = model.get_image_features(pixel_values=pixels)
        again = model.get_image_features(pixel_values=pixels).pooler_output
        set_patch_size(model, 4)
        model.save_pretrained(tmp_path)
        stock = SiglipModel.from_pretrained(tmp_path)
        converted = stock.get_image_features(pixel_values=pixels)
    assert torch.equal(base, again)
    assert stock.config.vision_config.patch_size == 4
    assert drawn.last_hidden_state.shape == converted.last_hidden_state.shape == (3, 16, 16)
    torch.testing.assert_close(converted.pooler_output, drawn.pooler_output)
    assert (drawn.pooler_output - base).abs().max() > 1e-2
    # and it goes on to other resolutions as any encoder
    set_image_size(stock, 24)
    assert stock.vision_model.embeddings.position_embedding.weight.shape == (36, 16)


def test_a_larger_patch_of_a_larger_image_is_the_same_patch():
    """An image twice as large, of blocks of equal pixels resized bilinearly, gives nearly what the small one gave."""
    torch.manual_seed(0)
    kernel, patch = torch.randn(1, 3, 8, 8), torch.randn(1, 3, 8, 8)
    large = torch.nn.functional.interpolate(patch, size=(16, 16), mode="bilinear")
    wanted, found = (patch * kernel).sum(), (large * resample_kernel(kernel, (16, 16))).sum()
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-5)


def test_mistakes():
    model, _ = tiny_siglip()
    with pytest.raises(ValueError, match="patch_size=17: from 1 to the image's 16 pixels"):
        set_patch_size(model, 17)
    with pytest.raises(ValueError, match="SiglipTextModel has no SigLIP image encoder"):
        set_patch_size(model.text_model, 4)


def test_weights_of_a_validation_can_be_trained_with(model):
    axis_matrix.cache_clear()
    antialiased_axis.cache_clear()
    pixels = torch.randn(1, 3, 24, 24)
    with torch.inference_mode(), at_patch_size(model, 6):
        model(pixels)
    with at_patch_size(model, 6):
        model(pixels).last_hidden_state.sum().backward()
    model.zero_grad()
