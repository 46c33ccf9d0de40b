import subprocess
import sys

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_paligemma import (
    IMAGE_TOKENS,
    IMAGES,
    KINDS,
    PREFIXES,
    tiny_batch,
    tiny_paligemma,
    tiny_paligemma_processor,
)
from tolerances import assert_same_but_rounding
from transformers import AutoModelForImageTextToText
from transformers import PaliGemmaForConditionalGeneration as StockPaliGemma

from openpali.modeling.modeling_paligemma import PaliGemmaForConditionalGeneration, PaliGemmaProjector, RawPatches

# Transformers has no SDPA for Gemma 2, whose attention has a soft-cap
BACKENDS = [("gemma", "eager"), ("gemma", "sdpa"), ("gemma", "flex_attention")]
BACKENDS += [("gemma2", "eager"), ("gemma2", "flex_attention")]


@pytest.fixture
def processor(tiny_tokenizer):
    return tiny_paligemma_processor(tiny_tokenizer)


def logits_of(model, batch):
    with torch.no_grad():
        return model(**batch, output_logits=True).logits


def plain_loss(logits, labels, epsilon):
    """Mean over examples of the mean over tokens, in float64."""
    log_p = logits.double().log_softmax(-1)[:, :-1]
    labels = labels[:, 1:]
    target = log_p.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    rest = (log_p.sum(-1) - target) / (log_p.shape[-1] - 1)
    tokens = -((1 - epsilon) * target + epsilon * rest) * (labels != -100)
    return (tokens.sum(1) / (labels != -100).sum(1)).mean()


@pytest.mark.parametrize(("kind", "backend"), BACKENDS)
def test_attention_backends_agree(processor, kind, backend):
    batch = tiny_batch(processor)
    reference, other = (tiny_paligemma(kind, processor, attention=name) for name in ("eager", backend))
    assert other.model.language_model.config._attn_implementation == backend
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(logits_of(other, batch)[real], logits_of(reference, batch)[real], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize(("kind", "backend"), BACKENDS)
def test_no_position_sees_a_later_suffix_token(processor, kind, backend, padded):
    batch = dict(tiny_batch(processor))
    row = 2 if padded else 0
    if not padded:
        # where stock Transformers makes no mask, and attends in both directions under SDPA
        batch = {name: value[1:2] for name, value in batch.items() if name != "attention_mask"}
    model = tiny_paligemma(kind, processor, attention=backend)
    before = logits_of(model, batch)
    last = int(batch["labels"][row].ne(-100).nonzero()[-1])
    assert (last == before.shape[1] - 1) == (not padded)
    changed = batch["input_ids"].clone()
    changed[row, last] = 5
    after = logits_of(model, batch | {"input_ids": changed})
    assert torch.equal(after[row, :last], before[row, :last])
    assert not torch.allclose(after[row, last], before[row, last])


@pytest.mark.parametrize(("kind", "backend"), BACKENDS)
def test_images_and_prefix_see_the_whole_prefix(processor, kind, backend):
    batch = tiny_batch(processor)
    model = tiny_paligemma(kind, processor, attention=backend)
    before = logits_of(model, batch)
    separator = int((batch["token_type_ids"][1] == 0).sum()) - 1
    changed = batch["input_ids"].clone()
    changed[1, separator] = 5
    after = logits_of(model, batch | {"input_ids": changed})
    assert not torch.isclose(after[1], before[1]).all(-1)[: separator + 1].any()


def test_what_the_ablations_see(tiny_tokenizer):
    moved = {}
    for attention in ("full", "causal", "causal_all"):
        processor = tiny_paligemma_processor(tiny_tokenizer, prefix_attention=attention)
        batch = tiny_batch(processor)
        model = tiny_paligemma("gemma", processor)
        before = logits_of(model, batch)
        separator = int(batch["labels"][1].ne(-100).float().argmax()) - 1
        changed = batch["input_ids"].clone()
        changed[1, separator] = 5
        change = (logits_of(model, batch | {"input_ids": changed}) - before)[1].abs().amax(-1)
        moved[attention] = int(change.nonzero()[0])
    assert moved == {"full": 0, "causal": separator, "causal_all": separator}


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_loss_and_gradients_are_those_of_the_plain_formula_on_stock_logits(processor, epsilon):
    batch = tiny_batch(processor)
    model = tiny_paligemma("gemma", processor)
    model(**batch, label_smoothing=epsilon).loss.backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters()}
    stock = StockPaliGemma(model.config)
    stock.load_state_dict(model.state_dict())
    labels = batch.pop("labels")
    loss = plain_loss(stock(**batch).logits, labels, epsilon)
    loss.backward()
    torch.testing.assert_close(model(**batch, labels=labels, label_smoothing=epsilon).loss.double(), loss)
    for name, parameter in stock.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_without_labels_it_is_stock(processor, kind):
    batch = tiny_batch(processor)
    batch.pop("labels")
    model = tiny_paligemma(kind, processor)
    stock = StockPaliGemma(model.config).eval()
    stock.load_state_dict(model.state_dict())
    with torch.no_grad():
        for options in ({}, {"logits_to_keep": 2}):
            assert_same_but_rounding(model(**batch, **options).logits, stock(**batch, **options).logits)


def test_the_final_soft_cap_is_in_the_answers_and_not_in_the_loss(processor):
    batch = tiny_batch(processor)
    model = tiny_paligemma("gemma2", processor)
    free = logits_of(model, batch)
    with torch.no_grad():
        capped = model(**{k: v for k, v in batch.items() if k != "labels"}).logits
        torch.testing.assert_close(capped, 3 * torch.tanh(free / 3))
        torch.testing.assert_close(model(**batch).loss.double(), plain_loss(free, batch["labels"], 0.0))
    assert free.abs().max() > 3


def test_training_gives_logits_only_when_asked_for(processor):
    batch, model = tiny_batch(processor), tiny_paligemma("gemma", processor)
    assert model(**batch).logits.shape[:2] == batch["input_ids"].shape
    assert model(**batch, output_logits=False).logits is None
    assert model.train()(**batch).logits is None
    assert model(**batch, output_logits=True).logits.shape[:2] == batch["input_ids"].shape
    as_tuple = model(**batch, return_dict=False)
    torch.testing.assert_close(as_tuple[0], model(**batch).loss)


def test_label_smoothing_of_the_configuration(processor):
    batch = tiny_batch(processor)
    model = tiny_paligemma("gemma", processor, label_smoothing=0.3)
    torch.testing.assert_close(model(**batch).loss, model(**batch, label_smoothing=0.3).loss)
    assert model(**batch).loss != model(**batch, label_smoothing=0.0).loss


def test_labels_without_token_types_are_refused(processor):
    batch = tiny_batch(processor)
    batch.pop("token_type_ids")
    with pytest.raises(ValueError, match="labels need token_type_ids"):
        tiny_paligemma("gemma", processor)(**batch)


def test_an_attention_that_drops_the_prefix_block_is_refused(processor):
    model = tiny_paligemma("gemma", processor)
    model.model.language_model.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(ValueError, match="cannot do prefix-LM"):
        model(**tiny_batch(processor))


def test_a_cache_with_labels_is_refused(processor):
    with pytest.raises(ValueError, match="no cache"):
        tiny_paligemma("gemma", processor)(**tiny_batch(processor), use_cache=True)


def test_wrong_number_of_placeholders_is_refused(processor):
    batch = tiny_batch(processor)
    with pytest.raises(ValueError, match="do not match"):
        tiny_paligemma("gemma", processor)(**batch | {"pixel_values": batch["pixel_values"][:3]})


def test_embeddings_in_place_of_ids(processor):
    batch, model = tiny_batch(processor), tiny_paligemma("gemma", processor)
    expected = model(**batch).loss
    embeds, _ = model.embed(batch.pop("input_ids"), None, batch.pop("pixel_values"))
    torch.testing.assert_close(model(**batch, inputs_embeds=embeds).loss, expected)


def test_gradient_checkpointing_changes_nothing(processor):
    batch, grads = tiny_batch(processor), []
    for checkpointing in (False, True):
        model = tiny_paligemma("gemma2", processor).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(**batch).loss.backward()
        grads.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("kind", KINDS)
def test_cached_and_uncached_generation_agree(processor, kind):
    model = tiny_paligemma(kind, processor)
    prompt = processor(images=IMAGES, text=PREFIXES, return_tensors="pt")
    cached, plain = (model.generate(**prompt, max_new_tokens=8, use_cache=cache) for cache in (True, False))
    assert torch.equal(cached, plain)
    for row, (image, prefix) in enumerate(zip(IMAGES, PREFIXES)):
        alone = processor(images=[image], text=[prefix], return_tensors="pt")
        answer = model.generate(**alone, max_new_tokens=8)[0, alone["input_ids"].shape[1] :]
        together = cached[row, prompt["input_ids"].shape[1] :]
        assert together[: len(answer)].tolist() == answer.tolist()


def test_a_new_projector_is_zero_and_the_rest_is_not(processor):
    model = PaliGemmaForConditionalGeneration(tiny_paligemma("gemma", processor).config)
    zero = {name for name, p in model.named_parameters() if "projector" in name and not p.any()}
    assert zero == {"model.multi_modal_projector.linear.weight", "model.multi_modal_projector.linear.bias"}
    assert model.model.language_model.layers[0].mlp.up_proj.weight.any()


@pytest.mark.parametrize(("projector", "encoder"), [("mlp", "siglip"), ("linear", "none"), ("mlp", "none")])
def test_connectors_of_the_comparisons(processor, projector, encoder, tmp_path):
    model = tiny_paligemma("gemma", processor, projector=projector, image_encoder=encoder)
    batch = tiny_batch(processor)
    model(**batch).loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in model.model.multi_modal_projector.parameters())
    assert isinstance(model.model.multi_modal_projector, PaliGemmaProjector)
    assert isinstance(model.model.vision_tower, RawPatches) == (encoder == "none")
    assert any("vision_tower" in name for name, _ in model.named_parameters()) == (encoder == "siglip")
    model.save_pretrained(tmp_path)
    loaded = PaliGemmaForConditionalGeneration.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(**batch).loss, model(**batch).loss)


def test_raw_patches_are_pixels_in_raster_order():
    image = torch.arange(3 * 4 * 6).reshape(1, 3, 4, 6).float()
    patches = RawPatches(2)(image).last_hidden_state
    assert patches.shape == (1, 6, 12)
    assert patches[0, 1].tolist() == image[0, :, :2, 2:4].flatten().tolist()
    assert patches[0, 3].tolist() == image[0, :, 2:, :2].flatten().tolist()


def test_unknown_connectors_are_refused(processor):
    with pytest.raises(ValueError, match="'perceiver'"):
        tiny_paligemma("gemma", processor, projector="perceiver")


def test_several_images_a_prompt(processor):
    model = tiny_paligemma("gemma", processor)
    batch = processor(
        images=[IMAGES[:2], IMAGES[2:3]], text=["what is this", "a dog"], suffix=["dog", "a"], return_tensors="pt"
    )
    assert (batch["input_ids"] == processor.image_token_id).sum(1).tolist() == [2 * IMAGE_TOKENS, IMAGE_TOKENS]
    five = batch | {"pixel_values": batch["pixel_values"][None]}
    torch.testing.assert_close(model(**five).loss, model(**batch).loss)


SCRIPT = """
import sys, torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
torch.set_num_threads(1)
for folder in sys.argv[1:]:
    model = AutoModelForImageTextToText.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    inputs = processor(images=Image.new("RGB", (20, 20), "red"), text="<image>what is this", return_tensors="pt")
    inputs.pop("labels", None)
    print(type(model).__module__, model.generate(**inputs, max_new_tokens=8).tolist())
assert not any(name.startswith("openpali") for name in sys.modules)
"""


def test_a_trained_checkpoint_answers_alike_in_stock_transformers(processor, tmp_path):
    expected = []
    for kind in KINDS:
        model = tiny_paligemma(kind, processor)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(2):
            model.train()(**tiny_batch(processor)).loss.backward()
            optimizer.step()
        model.eval().save_pretrained(tmp_path / kind)
        processor.save_pretrained(tmp_path / kind)
        inputs = processor(images=Image.new("RGB", (20, 20), "red"), text="what is this", return_tensors="pt")
        answer = model.generate(**inputs, max_new_tokens=8).tolist()
        expected.append(f"transformers.models.paligemma.modeling_paligemma {answer}")
    command = [sys.executable, "-c", SCRIPT, *(str(tmp_path / kind) for kind in KINDS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-len(KINDS) :] == expected


# some weights of google/paligemma-3b-pt-224
PUBLISHED_NAMES = {
    "language_model.model.embed_tokens.weight",
    "language_model.model.layers.0.self_attn.q_proj.weight",
    "language_model.model.norm.weight",
    "multi_modal_projector.linear.bias",
    "vision_tower.vision_model.embeddings.patch_embedding.weight",
    "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight",
    "vision_tower.vision_model.post_layernorm.bias",
}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("original", [True, False])
def test_both_layouts_of_a_checkpoint_load_on_both_sides(processor, original, tied, tmp_path):
    model = tiny_paligemma("gemma", processor, tie_word_embeddings=tied)
    model.save_pretrained(tmp_path, save_original_format=original)
    names = load_file(tmp_path / "model.safetensors").keys()
    assert (names >= PUBLISHED_NAMES) == original
    assert not any(name.startswith("model.") for name in names) or not original
    assert any("lm_head" in name for name in names) != tied
    for cls in (PaliGemmaForConditionalGeneration, AutoModelForImageTextToText):
        loaded, info = cls.from_pretrained(tmp_path, output_loading_info=True)
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, loaded.get_parameter(name)), name
