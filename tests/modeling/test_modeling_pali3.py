"""PaLI-3: loss, learning, attention, outputs."""

import math
from typing import Any

import pytest
import torch
from tiny_pali3 import (
    DECODER_LAYERS,
    HEADS,
    IMAGE_TOKENS,
    KINDS,
    LAYERS,
    VOCABULARY,
    WIDTH,
    logits_of,
    tiny_batch,
    tiny_config,
    tiny_pali3,
    without,
)

from openpali import Pali3ForConditionalGeneration


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def model(kind):
    return tiny_pali3(kind)


def test_sub_configurations_are_used_not_copied(model):
    assert model.model.encoder.vision_tower.config is model.config.vision_config
    assert model.config.get_text_config().vocab_size == VOCABULARY


def test_projector_starts_at_zero_and_the_loss_at_chance(kind):
    torch.manual_seed(0)
    for projector in ("linear", "mlp"):
        model = Pali3ForConditionalGeneration(tiny_config(kind, projector=projector))
        output = model.model.encoder.projector.output
        assert output.weight.abs().sum() == 0
        assert output.bias.abs().sum() == 0
        with torch.no_grad():
            loss = model(**tiny_batch(examples=8)).loss.item()
        assert 0.8 * math.log(VOCABULARY) < loss < 1.5 * math.log(VOCABULARY)


@pytest.mark.parametrize("projector", ["linear", "mlp"])
def test_every_parameter_learns_and_those_behind_the_zero_projector_one_step_later(kind, projector):
    torch.manual_seed(0)
    model: Any = Pali3ForConditionalGeneration(tiny_config(kind, projector=projector))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for step in range(2):
        optimizer.zero_grad()
        model(**tiny_batch()).loss.backward()
        for name, parameter in model.named_parameters():
            waiting = step == 0 and ("vision_tower" in name or "projector.hidden" in name)
            # the softmax does not see a shift of all keys, so this gradient is rounding
            if not name.endswith("k_proj.bias"):
                assert (parameter.grad.abs().sum() == 0) == waiting, (step, name)
        optimizer.step()
    still = [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])]
    assert [name for name in still if not name.endswith("k_proj.bias")] == []


def test_loss_is_the_mean_over_examples_of_the_plain_formula(model, kind):
    batch = tiny_batch()
    batch["labels"][1, 1:] = -100
    outputs = model(**batch, output_logits=True, label_smoothing=0.1)
    log_p = outputs.logits.double().log_softmax(-1)
    per_example, unsmoothed = [], []
    for row, labels in zip(log_p, batch["labels"]):
        target = row.gather(1, labels.clamp(min=0)[:, None])[:, 0]
        smoothed = 0.9 * target + 0.1 / (VOCABULARY - 1) * (row.sum(-1) - target)
        per_example.append(-smoothed[labels != -100].mean())
        unsmoothed.append(-target[labels != -100].mean())
    torch.testing.assert_close(outputs.loss.double(), torch.stack(per_example).mean(), rtol=1e-5, atol=1e-6)
    plain = model(**batch)
    torch.testing.assert_close(plain.logits, outputs.logits)
    assert model.train()(**batch).logits is None
    assert plain.cache is plain.past_key_values is None
    torch.testing.assert_close(plain.loss, torch.stack(unsmoothed).mean().float(), rtol=1e-5, atol=1e-6)
    smoothing = tiny_pali3(kind, label_smoothing=0.1)
    torch.testing.assert_close(smoothing(**batch).loss, outputs.loss)


def test_t5gemma_caps_its_logits(kind):
    model = tiny_pali3("t5gemma")
    model.lm_head.weight.data *= 100
    assert 29 < logits_of(model).abs().max() <= 30


def test_attention_implementations_agree(kind, tmp_path):
    tiny_pali3(kind).save_pretrained(tmp_path)
    models = [
        Pali3ForConditionalGeneration.from_pretrained(tmp_path, attn_implementation=attention)
        for attention in ("eager", None)
    ]
    eager, default = models
    assert eager.config.vision_config._attn_implementation == "eager"
    assert default.config.vision_config._attn_implementation == "sdpa"
    # T5Gemma caps attention scores, which SDPA cannot do
    text = default.get_decoder().config._attn_implementation
    assert text == ("eager" if kind == "t5gemma" else "sdpa")
    mask = tiny_batch()["attention_mask"]
    mask[1, -3:] = 0
    torch.testing.assert_close(
        logits_of(eager, attention_mask=mask), logits_of(default, attention_mask=mask), rtol=1e-4, atol=1e-5
    )


def test_padding_changes_nothing_on_either_side(model):
    batch = without(tiny_batch(), "labels")
    reference = logits_of(model)
    padding = torch.zeros(2, 3, dtype=torch.long)
    for order in ((0, 1), (1, 0)):
        ids, mask = ([[batch[key], padding][i] for i in order] for key in ("input_ids", "attention_mask"))
        padded = logits_of(model, input_ids=torch.cat(ids, 1), attention_mask=torch.cat(mask, 1))
        torch.testing.assert_close(padded, reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_gives_equal_loss_and_gradients(model, use_reentrant):
    def step():
        model.zero_grad()
        loss = model(**tiny_batch()).loss
        loss.backward()
        return loss.detach(), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    model.train()
    loss, gradients = step()
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    recomputed = count_recomputed_layers(model)
    checkpointed = step()
    torch.testing.assert_close(checkpointed, (loss, gradients))
    assert recomputed == {"vision_tower", "text_encoder", "decoder"}


def count_recomputed_layers(model):
    parts = ("vision_tower", "text_encoder", "decoder")
    layers = [name for name, module in model.named_modules() if getattr(module, "gradient_checkpointing", False)]
    return {part for part in parts for name in layers if f"{part}." in name}


def test_attentions_and_hidden_states_have_their_shapes(model):
    model.set_attn_implementation("eager")
    batch = tiny_batch()
    source, target = batch["input_ids"].shape[1], batch["labels"].shape[1]
    outputs = model(**batch, output_attentions=True, output_hidden_states=True)
    attentions = [(outputs.encoder_attentions, LAYERS, source, source)]
    attentions += [(outputs.decoder_attentions, DECODER_LAYERS, target, target)]
    attentions += [(outputs.cross_attentions, DECODER_LAYERS, target, source)]
    for tensors, layers, queries, keys in attentions:
        assert [tensor.shape for tensor in tensors] == [(2, HEADS, queries, keys)] * layers
        torch.testing.assert_close(tensors[0].sum(-1), torch.ones(2, HEADS, queries))
    for tensors, layers, length in (
        (outputs.encoder_hidden_states, LAYERS, source),
        (outputs.decoder_hidden_states, DECODER_LAYERS, target),
    ):
        assert [tensor.shape for tensor in tensors] == [(2, length, WIDTH)] * (layers + 1)
    assert outputs.encoder_last_hidden_state.shape == (2, source, WIDTH)
    assert outputs.image_hidden_states.shape == (2, IMAGE_TOKENS, WIDTH)


def test_tuples_hold_what_the_output_class_holds(model):
    batch = tiny_batch()
    with torch.no_grad():
        named = model(**batch, return_dict=None, output_logits=True, use_cache=False)
        plain = model(**batch, return_dict=False, output_logits=True, use_cache=False)
    assert isinstance(plain, tuple)
    for one, other in zip(plain, named.to_tuple(), strict=True):
        assert torch.equal(one, other)


def test_only_the_wanted_logits_are_computed(model):
    every = logits_of(model)
    torch.testing.assert_close(logits_of(model, logits_to_keep=2), every[:, -2:])
    torch.testing.assert_close(logits_of(model, logits_to_keep=torch.tensor([0, 3])), every[:, [0, 3]])
