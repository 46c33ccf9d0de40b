"""The authors' outputs, computed by stock Transformers from the converted folder."""

import json

import numpy as np
import pytest
import torch
from big_vision_files import FIXTURES, fixture, load, pixels, save_tokenizer, weights
from PIL import Image
from transformers import AutoProcessor

from openpali.scripts.convert_big_vision import main

UNCAPPED = ["--set", "text_config.final_logit_softcapping=null"]


@torch.no_grad()
def text_logits(model, arrays):
    """As the reference trains: image placeholders, text without its last token, padding as suffix."""
    text, causal = (torch.from_numpy(arrays[key][:, :-1]).long() for key in ("in/text", "in/mask_ar"))
    places = torch.full((len(text), arrays["out/zimg"].shape[1]), model.config.image_token_id)
    ids = torch.cat([places, text], 1)
    types = torch.cat([torch.zeros_like(places), causal], 1)
    output = model(
        input_ids=ids, pixel_values=pixels(arrays), token_type_ids=types, attention_mask=torch.ones_like(ids)
    )
    return output.logits[:, places.shape[1] :].numpy()


@pytest.mark.parametrize(
    "name", ["paligemma1_tiny", "paligemma1_tiny_res56", "paligemma2_tiny", "paligemma2_tiny_nocap"]
)
def test_stock_transformers_gives_the_authors_embeddings_and_logits(name, tmp_path):
    arrays = fixture(name)
    # training logits are not capped at the end
    main([str(FIXTURES / f"{name}.npz"), str(tmp_path / "out"), *(UNCAPPED if "2_" in name else [])])
    model = load(tmp_path / "out")
    with torch.no_grad():
        embeddings = model.get_image_features(pixels(arrays)).pooler_output.numpy()
    np.testing.assert_allclose(embeddings, arrays["out/zimg"], atol=2e-4, rtol=0)
    logits = text_logits(model, arrays)
    assert logits.shape[-1] == 576
    np.testing.assert_allclose(logits[..., :512], arrays["out/text_logits"], atol=2e-4, rtol=0)
    # the rows that were added can never win
    np.testing.assert_allclose(logits[..., 512:].mean(-1), logits[..., :512].mean(-1), atol=1e-5)
    assert logits[..., 512:].std(-1).max() < 1e-5


def test_the_final_soft_cap_of_gemma_2_is_on_unless_set(tmp_path):
    arrays = fixture("paligemma2_tiny")
    main([str(FIXTURES / "paligemma2_tiny.npz"), str(tmp_path / "out")])
    model = load(tmp_path / "out")
    assert (model.config.text_config.attn_logit_softcapping, model.config.text_config.query_pre_attn_scalar) == (
        50,
        16,
    )
    capped = 30 * np.tanh(arrays["out/text_logits"] / 30)
    logits = text_logits(model, arrays)[..., :512]
    np.testing.assert_allclose(logits, capped, atol=2e-4, rtol=0)
    assert np.abs(logits - arrays["out/text_logits"]).max() > 0.01


@pytest.mark.parametrize("name", ["paligemma1_tiny", "paligemma2_tiny_nocap"])
def test_generation_gives_the_authors_tokens(name, tmp_path):
    arrays = fixture(name)
    main([str(FIXTURES / f"{name}.npz"), str(tmp_path / "out"), *(UNCAPPED if "2_" in name else [])])
    model = load(tmp_path / "out")
    images = torch.from_numpy(arrays["in_decode/image"]).permute(0, 3, 1, 2)
    for image, text, mask, wanted in zip(
        images, arrays["in_decode/text"], arrays["in_decode/mask_input"], arrays["out_decode/greedy_tokens"]
    ):
        prompt = torch.from_numpy(text[mask == 1]).long()
        places = torch.full((arrays["out/zimg"].shape[1],), model.config.image_token_id)
        ids = torch.cat([places, prompt])[None]
        out = model.generate(
            input_ids=ids,
            pixel_values=image[None],
            attention_mask=torch.ones_like(ids),
            token_type_ids=torch.zeros_like(ids),
            max_new_tokens=8,
            do_sample=False,
        )
        new = out[0, ids.shape[1] :].tolist()
        assert len(new) > 0
        assert new == wanted[: len(new)].tolist()
        assert len(new) == 8 or new[-1] == 1


def test_what_the_configuration_says(tmp_path):
    main([str(FIXTURES / "paligemma2_tiny.npz"), str(tmp_path / "out")])
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["PaliGemmaForConditionalGeneration"]
    assert config["dtype"] == "float32"
    assert (config["image_token_index"], config["vocab_size"], config["projection_dim"]) == (512, 576, 64)
    vision, text = config["vision_config"], config["text_config"]
    assert (vision["vision_use_head"], vision["image_size"], vision["projection_dim"]) == (False, 28, 64)
    assert (text["model_type"], text["vocab_size"], text["num_image_tokens"]) == ("gemma2", 576, 4)
    # every position sees all before it, however far: the reference has no window
    assert text["layer_types"] == ["full_attention"] * 2
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert [generation[f"{name}_token_id"] for name in ("bos", "eos", "pad")] == [2, 1, 0]


def test_without_added_rows_the_table_is_the_authors(tmp_path):
    arrays = fixture("paligemma1_tiny")
    main([str(FIXTURES / "paligemma1_tiny.npz"), str(tmp_path / "out"), "--set", "text_config.vocab_size=512"])
    model = load(tmp_path / "out")
    assert model.config.vocab_size == model.lm_head.weight.shape[0] == 512
    np.testing.assert_allclose(text_logits(model, arrays), arrays["out/text_logits"], atol=2e-4, rtol=0)


def test_another_resolution(tmp_path):
    main([str(FIXTURES / "paligemma1_tiny.npz"), str(tmp_path / "out"), "--resolution", "56"])
    model = load(tmp_path / "out")
    arrays = fixture("paligemma1_tiny")
    table = weights(tmp_path / "out")["vision_tower.vision_model.embeddings.position_embedding.weight"].numpy()
    # corners stay, and all between is a mean of two neighbours at thirds: 2x2 to 4x4
    old = arrays["params/img/pos_embedding"].reshape(2, 2, -1)
    new = table.reshape(4, 4, -1)
    np.testing.assert_allclose(new[::3, ::3], old, atol=1e-6)
    np.testing.assert_allclose(new[0, 1], old[0, 0] * 2 / 3 + old[0, 1] / 3, atol=1e-6)
    assert (model.config.vision_config.image_size, model.config.text_config.num_image_tokens) == (56, 16)
    processor = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert (processor["size"], processor["image_seq_length"]) == ({"height": 56, "width": 56}, 16)
    with torch.no_grad():
        assert model.get_image_features(torch.zeros(1, 3, 56, 56)).pooler_output.shape == (1, 16, 64)


def test_the_folder_with_a_tokenizer_answers_a_image(tmp_path):
    tokenizer = save_tokenizer(tmp_path / "tokenizer", 512)
    main([str(FIXTURES / "paligemma1_tiny.npz"), str(tmp_path / "out"), "--tokenizer", str(tokenizer)])
    processor, model = AutoProcessor.from_pretrained(tmp_path / "out"), load(tmp_path / "out")
    assert (processor.image_token_id, processor.image_seq_length) == (512, 4)
    inputs = processor(images=Image.new("RGB", (40, 30), "red"), text="<image>what is this", return_tensors="pt")
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == 4
    assert inputs["input_ids"].max() == 512
    assert inputs["pixel_values"][0, :, 5, 5].tolist() == [1, -1, -1]
    inputs.pop("labels")
    assert model.generate(**inputs, max_new_tokens=2).shape[1] == inputs["input_ids"].shape[1] + 2
