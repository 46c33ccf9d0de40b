"""Activation checkpointing: what lies below all that trains has no graph, and is computed once."""

import pytest
import torch
from tiny_adapter_run import adapter_run
from tiny_adapters import FAMILIES, save_checkpoint


def watched_run(family, peft, tokenizer, folder, **options):
    """How often the image encoder's first layer is computed with and without a graph, in one step with two passes."""
    seen = []

    def watch(model):
        layers = [
            m
            for name, m in model.get_encoder(modality="image").named_modules()
            if name.endswith("layers.0.layer_norm1")
        ]
        layers[0].register_forward_hook(lambda *call: seen.append((torch.is_grad_enabled(), call[2].requires_grad)))

    checkpoint = save_checkpoint(family, tokenizer, folder / "checkpoint")
    options = {"max_steps": 1, "activation_checkpointing": True, "prepare": watch, **options}
    adapter_run(checkpoint, folder / "run", peft, **options)
    return seen


@pytest.mark.parametrize("peft", ["none", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_frozen_image_encoder_has_no_graph_and_is_not_computed_again(family, peft, tiny_tokenizer, tmp_path):
    seen = watched_run(family, peft, tiny_tokenizer, tmp_path, freeze=["vision_tower"])
    assert seen == [(True, False)]


@pytest.mark.adapters
@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_in_the_text_model_alone_leave_the_image_encoder_without_a_graph(family, tiny_tokenizer, tmp_path):
    targets = ["wo"] if family == "pali3" else ["down_proj"]
    assert watched_run(family, "lora", tiny_tokenizer, tmp_path, lora_targets=targets) == [(True, False)]


@pytest.mark.parametrize("peft", ["none", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_image_encoder_that_trains_is_computed_again_and_learns(family, peft, tiny_tokenizer, tmp_path):
    before = []

    def remember(model):
        before.extend((name, p.detach().clone()) for name, p in model.named_parameters() if "vision" in name)

    checkpoint = save_checkpoint(family, tiny_tokenizer, tmp_path / "checkpoint")
    options = {"max_steps": 3, "activation_checkpointing": True, "prepare": remember}
    after = dict(adapter_run(checkpoint, tmp_path / "run", peft, **options).model.named_parameters())
    assert any(not torch.equal(after[name], value) for name, value in before if peft == "none" or "lora" in name)
    (tmp_path / "seen").mkdir()
    assert len(watched_run(family, peft, tiny_tokenizer, tmp_path / "seen")) == 2
