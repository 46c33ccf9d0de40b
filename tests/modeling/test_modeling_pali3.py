import math
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_pali3 import (
    DECODER_LAYERS,
    HEADS,
    IMAGE,
    IMAGE_TOKENS,
    KINDS,
    LAYERS,
    SIDE,
    VISION,
    VOCABULARY,
    WIDTH,
    tiny_batch,
    tiny_config,
    tiny_pali3,
    without,
)
from tolerances import assert_same_but_rounding

from openpali import Pali3ForConditionalGeneration
from openpali.modeling.modeling_pali3 import Pali3Model

# tables with one row per token in the file: T5 shares encoder's and decoder's, T5Gemma has two
TABLES = {"t5": 2, "t5_tied": 1, "umt5": 1, "t5gemma": 2}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def model(kind):
    return tiny_pali3(kind)


def logits_of(model, **changes):
    batch = without(tiny_batch(), "labels") | {"decoder_input_ids": tiny_batch()["labels"].clamp(min=0)} | changes
    with torch.no_grad():
        return model(**batch).logits


def load(cls, folder, **options) -> Any:
    return cls.from_pretrained(folder, **options)


def test_saved_and_loaded_is_the_same_model(model, kind, tmp_path):
    model.save_pretrained(tmp_path)
    loaded, info = load(Pali3ForConditionalGeneration, tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert_same_but_rounding(logits_of(loaded), logits_of(model))
    for name in ("projector", "image_token_id", "tie_word_embeddings", "scale_decoder_outputs", "eos_token_id"):
        assert getattr(loaded.config, name) == getattr(model.config, name)


def test_tied_weights_are_written_once_and_stay_tied(model, kind, tmp_path):
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert sum(tensor.shape[0] == VOCABULARY for tensor in tensors.values()) == TABLES[kind]
    loaded = Pali3ForConditionalGeneration.from_pretrained(tmp_path)
    for each in (model, loaded):
        tables = [each.get_input_embeddings(), each.get_decoder().get_input_embeddings(), each.lm_head]
        assert len({id(table.weight) for table in tables}) == TABLES[kind]
        assert (tables[2].weight is tables[1].weight) == (kind != "t5")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_loads_in_half_precision(model, kind, dtype, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = load(Pali3ForConditionalGeneration, tmp_path, dtype=dtype)
    images = tiny_batch()["pixel_values"].to(dtype)
    assert loaded.lm_head.weight.dtype == loaded.get_image_features(images).pooler_output.dtype == dtype
    logits = logits_of(loaded, pixel_values=images).float()
    reference = logits_of(model)
    assert (logits - reference).norm() < 0.1 * reference.norm()


def test_a_model_without_head_loads_from_the_same_folder(model, tmp_path):
    model.save_pretrained(tmp_path)
    base, info = load(Pali3Model, tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    batch = without(tiny_batch(), "labels")
    with torch.no_grad():
        assert_same_but_rounding(base(**batch).last_hidden_state, model.model(**batch).last_hidden_state)


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


def test_weights_missing_in_a_checkpoint_are_initialised_like_new_ones(kind):
    """They come from uninitialised memory, so whatever no module initialises shows here."""
    torch.manual_seed(0)
    new = Pali3ForConditionalGeneration(tiny_config(kind, projector="mlp"))
    config = tiny_config(kind, projector="mlp")
    missing = Pali3ForConditionalGeneration.from_pretrained(None, config=config, state_dict={})
    for (name, one), other in zip(new.named_parameters(), missing.parameters(), strict=True):
        if one.unique().numel() == 1:
            assert torch.equal(one, other), name
        else:
            assert 0.4 < one.std() / other.std() < 2.5, name


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


def test_inputs_embeds_with_images_equal_input_ids(model):
    batch = tiny_batch()
    ids = batch["labels"].clamp(min=0)
    embeds = {
        "inputs_embeds": model.get_input_embeddings()(batch["input_ids"]),
        "decoder_inputs_embeds": model.get_decoder().get_input_embeddings()(ids),
    }
    result = logits_of(model, input_ids=None, decoder_input_ids=None, **embeds)
    torch.testing.assert_close(result, logits_of(model))
    with pytest.raises(ValueError, match="exactly one"):
        model(**without(batch, "labels"), inputs_embeds=embeds["inputs_embeds"])


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


def test_image_features_honour_the_options_of_the_image_encoder(model):
    model.set_attn_implementation("eager")
    images = tiny_batch()["pixel_values"]
    outputs = model.get_image_features(images, output_hidden_states=True, output_attentions=True)
    assert outputs.pooler_output.shape == (2, IMAGE_TOKENS, WIDTH)
    assert outputs.last_hidden_state.shape == (2, IMAGE_TOKENS, VISION["hidden_size"])
    assert len(outputs.hidden_states) == VISION["num_hidden_layers"] + 1
    assert len(outputs.attentions) == VISION["num_hidden_layers"]
    assert isinstance(model.get_image_features(images, return_dict=False), tuple)
    assert "pooler_output" in model.get_image_features(images, return_dict=None)


def test_only_the_wanted_logits_are_computed(model):
    every = logits_of(model)
    torch.testing.assert_close(logits_of(model, logits_to_keep=2), every[:, -2:])
    torch.testing.assert_close(logits_of(model, logits_to_keep=torch.tensor([0, 3])), every[:, [0, 3]])


def test_several_images_are_used_in_their_order(model):
    images = tiny_batch(examples=4)["pixel_values"]
    ids = torch.cat([torch.full((2, 2 * IMAGE_TOKENS), IMAGE), tiny_batch()["input_ids"][:, IMAGE_TOKENS:]], dim=1)
    changes = {"input_ids": ids, "attention_mask": None}
    in_order = logits_of(model, pixel_values=images, **changes)
    assert torch.equal(logits_of(model, pixel_values=images.view(2, 2, 3, SIDE, SIDE), **changes), in_order)
    swapped = logits_of(model, pixel_values=images[[1, 0, 2, 3]], **changes)
    assert (swapped[0] - in_order[0]).abs().max() > 1e-4
    torch.testing.assert_close(swapped[1], in_order[1])


def test_image_tokens_take_the_places_of_their_placeholders(model):
    encoder = model.model.encoder
    ids = torch.tensor([[5, IMAGE, 7, IMAGE], [IMAGE, 8, IMAGE, 9]])
    features = torch.arange(4.0)[:, None].expand(4, WIDTH).reshape(2, 2, WIDTH)
    merged = encoder.merge_images(ids, torch.full((2, 4, WIDTH), -1.0), features)
    assert merged[..., 0].tolist() == [[-1, 0, -1, 1], [2, -1, 3, -1]]


def test_images_reach_the_text_encoder_as_projected_whatever_it_scales(model):
    """T5Gemma multiplies its inputs by the root of its width; image tokens must come out of that unscaled."""
    seen = []
    layers = model.model.encoder.text_encoder
    first = layers.layers[0] if model.config.text_config.model_type == "t5gemma" else layers.block[0]
    handle = first.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    batch = tiny_batch()
    outputs = model(**batch)
    handle.remove()
    torch.testing.assert_close(seen[0][:, :IMAGE_TOKENS], outputs.image_hidden_states)


def test_placeholders_must_match_the_images(model):
    batch = tiny_batch()
    with pytest.raises(ValueError, match="8 image placeholders in input_ids but 1 images of 4 tokens"):
        model(**batch | {"pixel_values": batch["pixel_values"][:1]})
    embeds = model.get_input_embeddings()(batch["input_ids"])
    with pytest.raises(ValueError, match="8 image placeholders"):
        model(
            **without(batch, "input_ids", "pixel_values"),
            inputs_embeds=embeds,
            pixel_values=torch.rand(3, 3, SIDE, SIDE),
        )


def test_text_alone_needs_no_image(model):
    ids = tiny_batch()["input_ids"][:, IMAGE_TOKENS:]
    logits = logits_of(model, input_ids=ids, attention_mask=None, pixel_values=None)
    assert logits.isfinite().all()


@pytest.mark.parametrize("rows", [80, 62])
def test_resizing_changes_every_table_and_keeps_the_old_rows(kind, rows, tmp_path):
    model = tiny_pali3(kind)
    kept = min(rows, VOCABULARY)
    before = logits_of(model)
    model.resize_token_embeddings(rows)
    tables = [model.get_input_embeddings(), model.get_decoder().get_input_embeddings(), model.lm_head]
    assert [table.weight.shape[0] for table in tables] == [rows] * 3
    assert len({id(table.weight) for table in tables}) == TABLES[kind]
    assert model.config.get_text_config().vocab_size == rows
    after = logits_of(model)
    assert after.shape[-1] == rows
    torch.testing.assert_close(after[..., :kept], before[..., :kept], rtol=1e-5, atol=1e-5)
    model.save_pretrained(tmp_path)
    assert_same_but_rounding(logits_of(Pali3ForConditionalGeneration.from_pretrained(tmp_path)), after)
    assert model(**tiny_batch()).loss.isfinite()


def test_resizing_rounds_up(kind):
    model = tiny_pali3(kind)
    assert model.resize_token_embeddings(65, pad_to_multiple_of=16).num_embeddings == 80
    assert model.lm_head.weight.shape[0] == model.get_decoder().get_input_embeddings().weight.shape[0] == 80


def test_replaced_tables_are_used(model, kind):
    table = torch.nn.Embedding(VOCABULARY, WIDTH)
    model.set_input_embeddings(table)
    assert model.get_input_embeddings() is table
    assert (model.get_decoder().get_input_embeddings() is table) == (kind != "t5gemma")
