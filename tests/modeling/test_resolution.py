from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_pali3 import tiny_config, tiny_pali3
from tiny_paligemma import tiny_batch, tiny_paligemma, tiny_paligemma_processor
from transformers import PaliGemmaForConditionalGeneration as Stock
from transformers import SiglipVisionConfig, SiglipVisionModel, T5Config, T5Model

from openpali.modeling.modeling_pali3 import Pali3ForConditionalGeneration
from openpali.modeling.resolution import resize_positions, set_image_size, stretch_text_positions

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.mark.parametrize("name", ["2to4", "4to8", "16to32", "16to27", "7to3"])
def test_position_embeddings_are_resized_as_by_big_vision(name):
    with np.load(FIXTURES / "posemb_resample.npz") as arrays:
        old, new = (torch.from_numpy(arrays[f"{name}/{which}"])[0] for which in ("old", "new"))
    torch.testing.assert_close(resize_positions(old, round(len(new) ** 0.5)), new, rtol=0, atol=1e-5)
    assert resize_positions(old, round(len(old) ** 0.5)) is old


def test_features_at_twice_the_size_are_nearly_those_of_the_small_image():
    torch.manual_seed(0)
    model = SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=64,
            patch_size=8,
        )
    ).eval()
    small = torch.nn.functional.interpolate(torch.randn(2, 3, 4, 4), size=(64, 64), mode="bicubic")
    large = torch.nn.functional.interpolate(small, size=(128, 128), mode="bilinear")
    before = model(small).pooler_output
    other = model(-small).pooler_output
    set_image_size(model, 128)
    after = model(large).pooler_output
    assert model.config.image_size == 128
    assert model.embeddings.position_embedding.weight.shape == (256, 64)
    change, distance = (before - after).norm(), (before - other).norm()
    assert change < 0.25 * distance


def test_a_resized_model_saves_and_loads(tmp_path):
    model = Pali3ForConditionalGeneration(tiny_config("t5"))
    set_image_size(model, 32)
    assert model.config.vision_config.image_size == 32
    model.save_pretrained(tmp_path)
    again = Pali3ForConditionalGeneration.from_pretrained(tmp_path)
    pixels = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(again.get_image_features(pixels)[0], model.eval().get_image_features(pixels)[0])
    assert again.model.encoder.vision_tower.embeddings.position_embedding.weight.requires_grad


def test_what_cannot_be_resized():
    with pytest.raises(ValueError, match="image_size=7 is smaller than a patch of 8 pixels"):
        set_image_size(Pali3ForConditionalGeneration(tiny_config("t5")), 7)
    with pytest.raises(ValueError, match="T5Model has no SigLIP image encoder"):
        set_image_size(T5Model(T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=8)), 32)


@pytest.mark.parametrize("kind", ["gemma", "gemma2"])
def test_stretched_text_positions(kind, tiny_tokenizer, tmp_path):
    """Positions divided by 2 and then by 2 again are those of every fourth, and stock Transformers loads them."""
    processor = tiny_paligemma_processor(tiny_tokenizer)
    model, batch = tiny_paligemma(kind, processor), tiny_batch(processor)
    batch.pop("labels")
    rotary = model.get_decoder().rotary_emb
    hidden, positions = torch.zeros(1, 4, 8), torch.arange(4)[None]
    near = rotary(hidden, positions)
    before = model(**batch).logits
    for _ in range(2):
        stretch_text_positions(model, 2.0)
    far = model.get_decoder().rotary_emb(hidden, 4 * positions)
    torch.testing.assert_close(far, near)
    stretched = model(**batch).logits
    assert (stretched - before).abs().max() > 1e-3
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(Stock.from_pretrained(tmp_path).eval()(**batch).logits, stretched, rtol=1e-5, atol=1e-5)


def test_text_positions_of_t5_cannot_be_stretched():
    with pytest.raises(ValueError, match="is no PaliGemma"):
        stretch_text_positions(tiny_pali3("t5"), 2.0)
