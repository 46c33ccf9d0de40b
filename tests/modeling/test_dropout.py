import copy
import math

import pytest
import torch
from tiny_pali3 import KINDS as PAIRS
from tiny_pali3 import tiny_batch, tiny_pali3
from tiny_paligemma import KINDS as GEMMAS
from tiny_paligemma import tiny_batch as paligemma_batch
from tiny_paligemma import tiny_paligemma as random_paligemma
from tiny_paligemma import tiny_paligemma_processor
from tolerances import assert_same_but_rounding, assert_same_gradients
from torch import nn
from transformers import PaliGemmaForConditionalGeneration as StockPaliGemma

from openpali.modeling.dropout import ResidualDropout, set_text_dropout


@pytest.fixture
def make(tiny_tokenizer):
    """A model by the name of its text model, and a batch."""

    def made(kind):
        if kind in GEMMAS:
            processor = tiny_paligemma_processor(tiny_tokenizer)
            return random_paligemma(kind, processor), paligemma_batch(processor)
        return tiny_pali3(kind), tiny_batch()

    return made


def loss(model, batch, seed=0):
    torch.manual_seed(seed)
    return model(**batch).loss.item()


@pytest.mark.parametrize("kind", [*GEMMAS, *PAIRS])
def test_it_is_there_in_training_alone_and_zero_changes_no_bit_and_no_random_number(make, kind):
    model, batch = make(kind)
    set_text_dropout(model, 0.0)
    plain = loss(model, batch)
    assert loss(model.train(), batch) == plain
    before = torch.random.get_rng_state()
    model(**batch)
    assert torch.equal(torch.random.get_rng_state(), before)
    set_text_dropout(model, 0.3)
    assert loss(model, batch, 0) == loss(model, batch, 0) != loss(model, batch, 1)
    assert loss(model.eval(), batch) == plain
    set_text_dropout(model, 0.0)
    assert loss(model.train(), batch) == plain


@pytest.mark.parametrize("kind", GEMMAS)
def test_a_block_of_gemma_equals_the_formula_of_the_reference(make, kind):
    model, _ = make(kind)
    set_text_dropout(model.train(), 0.4)
    text = model.model.language_model
    layer, twin = text.layers[0], copy.deepcopy(text.layers[0])
    for part in twin.modules():
        part._forward_hooks.clear()
    torch.manual_seed(1)
    states = torch.randn(2, 5, 16)
    places = text.rotary_emb(states, torch.arange(5)[None])
    options = {"attention_mask": None, "position_embeddings": places}
    torch.manual_seed(2)
    got = layer(states, **options)

    def drop(values):
        return nn.functional.dropout(values, 0.4)

    torch.manual_seed(2)
    attended = twin.self_attn(twin.input_layernorm(states), **options)[0]
    if kind == "gemma2":
        middle = states + drop(twin.post_attention_layernorm(attended))
        expected = middle + twin.post_feedforward_layernorm(drop(twin.mlp(twin.pre_feedforward_layernorm(middle))))
    else:
        middle = states + drop(attended)
        expected = middle + drop(twin.mlp(twin.post_attention_layernorm(middle)))
    assert_same_but_rounding(got, expected)


def test_the_share_of_dropped_values_is_the_probability_and_the_rest_is_scaled():
    module = nn.Identity()
    module.register_forward_hook(ResidualDropout(0.1))
    torch.manual_seed(0)
    values = module(torch.ones(100, 1000))
    share = (values == 0).float().mean().item()
    assert share == pytest.approx(0.1, abs=4 * math.sqrt(0.1 * 0.9 / 100_000))
    assert values.max().item() == pytest.approx(1 / 0.9)


@pytest.mark.parametrize("kind", ["gemma", "gemma2", "t5", "t5gemma"])
def test_names_stay_and_a_saved_model_has_the_same_dropout_again(make, kind, tmp_path):
    model, batch = make(kind)
    names = list(model.state_dict())
    set_text_dropout(model.train(), 0.3)
    assert list(model.state_dict()) == names
    expected = loss(model, batch)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).train()
    assert_same_but_rounding(loss(again, batch), expected)
    # a copy's dropout is its own
    copied = copy.deepcopy(again)
    set_text_dropout(copied, 0.0)
    assert_same_but_rounding(loss(again, batch), expected)
    assert abs(loss(copied, batch) - expected) > 1e-3


@pytest.mark.parametrize("kind", GEMMAS)
def test_stock_transformers_loads_what_was_trained_with_dropout(make, kind, tmp_path):
    model, batch = make(kind)
    set_text_dropout(model, 0.3)
    model.save_pretrained(tmp_path)
    stock = StockPaliGemma.from_pretrained(tmp_path).eval()
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    assert_same_but_rounding(stock(**inputs).logits, model(**inputs).logits)


@pytest.mark.parametrize("kind", ["gemma2", "t5"])
def test_gradient_checkpointing_drops_the_same_values_again(make, kind):
    model, batch = make(kind)
    set_text_dropout(model.train(), 0.3)
    gradients = []
    for _ in range(2):
        model.zero_grad()
        torch.manual_seed(5)
        model(**batch).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        model.gradient_checkpointing_enable()
    assert len(gradients[0]) > 10
    assert_same_gradients(gradients[1], gradients[0])


@pytest.mark.adapters
def test_dropout_of_adapters_and_of_the_image_encoder_is_left_alone(make):
    from peft import LoraConfig

    model, _ = make("t5")
    model.add_adapter(LoraConfig(lora_dropout=0.25, target_modules=["q"]))
    set_text_dropout(model, 0.1)
    adapters = [m.p for n, m in model.named_modules() if isinstance(m, nn.Dropout) and "lora_" in n]
    others = [m.p for n, m in model.named_modules() if isinstance(m, nn.Dropout) and "lora_" not in n]
    assert set(adapters) == {0.25}
    assert set(others) == {0.1}
    assert model.model.decoder.block[0].layer[0].SelfAttention.dropout == 0.1
    assert model.model.encoder.vision_tower.config.attention_dropout == 0


@pytest.mark.parametrize("probability", [-0.1, 1.0, 10])
def test_what_is_no_probability_is_refused(tiny_model, probability):
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        set_text_dropout(tiny_model, probability)
