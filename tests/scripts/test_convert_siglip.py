"""The authors' SigLIP outputs, computed by stock Transformers from the converted folder."""

import json

import numpy as np
import pytest
import torch
from big_vision_files import (
    FIXTURES,
    assert_same_weights,
    fixture,
    load,
    parameters,
    pixels,
    save,
    save_tokenizer,
    unstacked,
)
from PIL import Image
from tokenizers import Tokenizer, models
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoProcessor,
    PreTrainedTokenizerFast,
    Siglip2VisionModel,
    SiglipModel,
)

from openpali.scripts.convert_big_vision import main


def embed(model, arrays):
    with torch.no_grad():
        return model(pixel_values=pixels(arrays), input_ids=torch.from_numpy(arrays["in/text"]).long())


@pytest.mark.parametrize("name", ["siglip_tiny", "siglip2_tiny_scan"])
def test_stock_transformers_gives_the_authors_embeddings_and_logits(name, tmp_path):
    arrays = fixture(name)
    main([str(FIXTURES / f"{name}.npz"), str(tmp_path / "out")])
    model = load(tmp_path / "out", AutoModel)
    assert isinstance(model, SiglipModel)
    output = embed(model, arrays)
    for found, key in (
        (output.image_embeds, "out/zimg"),
        (output.text_embeds, "out/ztxt"),
        (output.logits_per_image, "out/logits"),
    ):
        np.testing.assert_allclose(found.numpy(), arrays[key], atol=1e-4, rtol=0)
    assert model.logit_bias.item() == pytest.approx(-10)
    assert model.config.text_config.max_position_embeddings == arrays["in/text"].shape[1]


def test_layers_apart_and_stacked_are_the_same(tmp_path):
    save(tmp_path / "apart.npz", unstacked(parameters("siglip2_tiny_scan")))
    main([str(tmp_path / "apart.npz"), str(tmp_path / "apart")])
    main([str(FIXTURES / "siglip2_tiny_scan.npz"), str(tmp_path / "stacked")])
    assert_same_weights(tmp_path / "apart", tmp_path / "stacked")


def test_naflex_tower(tmp_path):
    arrays = fixture("siglip2_naflex_tiny")
    main([str(FIXTURES / "siglip2_naflex_tiny.npz"), str(tmp_path / "out")])
    model = load(tmp_path / "out", AutoModel)
    assert isinstance(model, Siglip2VisionModel)
    grids = torch.tensor([[3, 4], [2, 3], [5, 2]])
    mask = torch.from_numpy(arrays["in/type"])
    with torch.no_grad():
        output = model(
            pixel_values=torch.from_numpy(arrays["in/patches"]), pixel_attention_mask=mask, spatial_shapes=grids
        )
    np.testing.assert_allclose(output.pooler_output.numpy(), arrays["out/z"], atol=1e-4, rtol=0)
    kept = output.last_hidden_state.numpy()[mask == 1]
    np.testing.assert_allclose(kept, arrays["out/encoded"][mask == 1], atol=1e-4, rtol=0)
    processor = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert (processor["patch_size"], processor["max_num_patches"]) == (4, 16)


def test_naflex_with_texts(tmp_path):
    tower = parameters("siglip2_naflex_tiny")
    both = {key: value for key, value in parameters("siglip_tiny").items() if "/img/" not in key}
    save(tmp_path / "both.npz", both | {key.replace("params/", "params/img/"): tower[key] for key in tower})
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1, "<unk>": 2, "a": 3}, unk_token="<unk>"))
    named = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=words, **named).save_pretrained(tmp_path / "words")
    main([str(tmp_path / "both.npz"), str(tmp_path / "out"), "--tokenizer", str(tmp_path / "words")])
    model = load(tmp_path / "out", AutoModel)
    assert model.config.model_type == "siglip2"
    # an image of 16 x 24 pixels in patches of 4
    made = AutoProcessor.from_pretrained(tmp_path / "out")(text="a", images=Image.new("RGB", (24, 16)))
    assert np.shape(made["pixel_values"])[1:] == (16, 3 * 4 * 4)
    main([str(FIXTURES / "siglip2_naflex_tiny.npz"), str(tmp_path / "tower")])
    alone = load(tmp_path / "tower", AutoModel).state_dict()
    assert all(torch.equal(model.state_dict()[f"vision_model.{name}"], value) for name, value in alone.items())


def test_an_image_tower_alone(tmp_path):
    arrays = {
        key.replace("params/img/", "params/"): value
        for key, value in parameters("siglip_tiny").items()
        if key.startswith("params/img/")
    }
    main([str(save(tmp_path / "tower.npz", arrays)), str(tmp_path / "out")])
    model = load(tmp_path / "out", AutoModel)
    whole = fixture("siglip_tiny")
    with torch.no_grad():
        output = model(pixel_values=pixels(whole)).pooler_output
    normalised = output / output.norm(dim=-1, keepdim=True)
    np.testing.assert_allclose(normalised.numpy(), whole["out/zimg"], atol=1e-4, rtol=0)


def test_a_text_tower_without_head_gets_one_that_does_nothing(tmp_path):
    arrays = fixture("siglip_tiny")
    with_identity = parameters("siglip_tiny")
    with_identity["params/txt/head/kernel"] = np.eye(32, dtype=np.float32)
    with_identity["params/txt/head/bias"] = np.zeros(32, dtype=np.float32)
    without = {key: value for key, value in with_identity.items() if "txt/head" not in key}
    for name, content in (("identity", with_identity), ("without", without)):
        main([str(save(tmp_path / f"{name}.npz", content)), str(tmp_path / name)])
    assert_same_weights(tmp_path / "identity", tmp_path / "without")
    texts = embed(load(tmp_path / "without", AutoModel), arrays).text_model_output
    assert torch.equal(texts.pooler_output, texts.last_hidden_state[:, -1])


def test_another_resolution(tmp_path):
    main([str(FIXTURES / "siglip_tiny.npz"), str(tmp_path / "out"), "--resolution", "42"])
    model = load(tmp_path / "out", AutoModel)
    old = fixture("siglip_tiny")["params/img/pos_embedding"].reshape(2, 2, -1)
    new = model.vision_model.embeddings.position_embedding.weight.detach().numpy().reshape(3, 3, -1)
    np.testing.assert_allclose(new[::2, ::2], old, atol=1e-6)
    np.testing.assert_allclose(new[1, 1], old.mean((0, 1)), atol=1e-6)


def test_processor_pads_to_the_texts_of_training(tmp_path, caplog):
    tokenizer = save_tokenizer(tmp_path / "tokenizer", 300)
    arrays = parameters("siglip_tiny")
    arrays["params/txt/Embed_0/embedding"] = np.zeros((300, 32), np.float32)
    save(tmp_path / "in.npz", arrays)
    main([str(tmp_path / "in.npz"), str(tmp_path / "out"), "--tokenizer", str(tokenizer)])
    assert "lower-cased" in caplog.text
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    inputs = processor(text=["a dog", "cat"], images=[Image.new("RGB", (9, 30))] * 2, padding="max_length")
    assert np.asarray(inputs["input_ids"]).shape == (2, 8)
    assert np.asarray(inputs["pixel_values"]).shape == (2, 3, 28, 28)
    with pytest.raises(SystemExit, match="300 tokens, the checkpoint 128"):
        main([str(FIXTURES / "siglip_tiny.npz"), str(tmp_path / "no"), "--tokenizer", str(tokenizer)])


def test_images_are_resized_as_by_the_authors(tmp_path):
    main([str(FIXTURES / "siglip_tiny.npz"), str(tmp_path / "out")])
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out")
    noise = np.random.default_rng(0).integers(0, 256, (56, 56, 3), dtype=np.uint8)
    found = np.asarray(processor(Image.fromarray(noise))["pixel_values"][0])
    # bilinear and antialiased: at half the size a triangle over four pixels. Bicubic would weigh eight
    rows = noise.astype(np.float64)
    weights = np.array([1, 3, 3, 1]) / 8
    middle = sum(w * rows[2 * 14 - 1 + k] for k, w in enumerate(weights))
    wanted = sum(w * middle[2 * 14 - 1 + k] for k, w in enumerate(weights)) / 127.5 - 1
    np.testing.assert_allclose(found[:, 14, 14], wanted, atol=1.5 / 127.5)
