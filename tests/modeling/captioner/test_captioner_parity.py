"""Captioners against the outputs of big_vision's code: tokens, logits, losses, scores and gradients."""

from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from big_vision_files import FIXTURES, fixture, pixels, save

from openpali.modeling.captioner.modeling_captioner import Captioner
from openpali.scripts.big_vision.npz import Checkpoint
from openpali.scripts.big_vision.plan import apply_rule, make_plan

NAMES = ("cappa_tiny", "cappa_tiny_scan")
MODES = ("causal", "masked")
MASK = 64


def converted(path) -> tuple[Any, dict[str, torch.Tensor]]:
    """Plan and weights of an `.npz` file, under our names."""
    with Checkpoint(path) as checkpoint:
        plan = make_plan(checkpoint.sources)
        named = [apply_rule(rule, checkpoint.sources, checkpoint.tensors) for rule in plan.rules]
        return plan, {name: value.clone() for pairs in named for name, value in pairs}


@lru_cache
def model_of(name: str) -> Captioner:
    plan, weights = converted(FIXTURES / f"{name}.npz")
    model = Captioner(plan.model.config).eval()
    model.load_state_dict(weights)
    return model


def labels_of(arrays: dict[str, np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(arrays["in/labels"]).long()


def batch_of(arrays: dict[str, np.ndarray], mode: str, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    labels = labels_of(arrays) if labels is None else labels
    batch = {"pixel_values": pixels(arrays), "labels": labels}
    if mode == "masked":
        everyone = torch.ones(len(labels), dtype=torch.bool)
        batch |= {"decoder_input_ids": torch.full_like(labels, MASK), "parallel": everyone}
    return batch


def logits_of(model: Captioner, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    inputs = batch.get("decoder_input_ids", model.decoder.shifted(batch["labels"]))
    tokens = model.image_tokens(batch["pixel_values"])
    return model.decoder.logits(model.decoder(tokens, inputs, batch.get("parallel")))


def assert_near(found: torch.Tensor, wanted: np.ndarray) -> None:
    # the authors' code against a second implementation in NumPy: 6e-5 at most
    np.testing.assert_allclose(found.detach().numpy(), wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_image_tokens_logits_and_scores(name):
    arrays, model = fixture(name), model_of(name)
    with torch.no_grad():
        tokens = model.image_tokens(pixels(arrays))
        assert_near(tokens, arrays["out/encoded"])
        assert_near(tokens.mean(1), arrays["out/enc_rep"])
        for mode in MODES:
            assert_near(logits_of(model, batch_of(arrays, mode)), arrays[f"out/{mode}/logits"])
        texts = torch.from_numpy(arrays["in/label_tokens"]).long()
        assert_near(model.score(pixels(arrays), texts), arrays["out/scores"])
        own = model.score(pixels(arrays), labels_of(arrays)[:, None])[:, 0]
        assert_near(-own, arrays["out/causal/perplexity_sum"])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_losses(name, mode):
    arrays, model = fixture(name), model_of(name)
    batch = batch_of(arrays, mode)
    with torch.no_grad():
        assert_near(model(**batch).loss, arrays[f"out/{mode}/loss"])
        weights = torch.from_numpy(arrays["in/label_masks"])
        assert_near(model(**batch, label_weights=weights).loss, arrays[f"out/{mode}/loss_label_masks"])
        empty = labels_of(arrays)
        empty[-1] = 0
        found = model(**batch_of(arrays, mode, empty))
        assert_near(found.loss, arrays[f"out/{mode}/loss_last_example_all_pad"])
        assert found.example_losses[-1] == 0
        model.decoder.config.label_smoothing = 0.1
        try:
            assert_near(model(**batch).loss, arrays[f"out/{mode}/loss_ls0.1"])
        finally:
            model.decoder.config.label_smoothing = 0.0


@pytest.mark.parametrize("ratio", ["r100", "r050"])
@pytest.mark.parametrize("name", NAMES)
def test_both_modes_in_a_batch(name, ratio):
    arrays, model = fixture(name), model_of(name)
    inputs = torch.from_numpy(arrays[f"out/mixed_{ratio}/decoder_input_ids"]).long()
    parallel = torch.from_numpy(arrays[f"in/mixed_{ratio}/do_masked"])
    batch = batch_of(arrays, "causal") | {"decoder_input_ids": inputs, "parallel": parallel}
    with torch.no_grad():
        assert_near(logits_of(model, batch), arrays[f"out/mixed_{ratio}/logits"])
        assert_near(model(**batch).loss, arrays[f"out/mixed_{ratio}/loss"])
    # the inputs are what the drawn modes and positions make of the labels
    masked = torch.from_numpy(arrays[f"in/mixed_{ratio}/mask_locations"]).bool()
    labels = batch["labels"]
    made = torch.where(parallel[:, None], labels.masked_fill(masked, MASK), model.decoder.shifted(labels))
    assert torch.equal(made, inputs)


@pytest.mark.parametrize(("mode", "root"), [("causal", "grad/"), ("masked", "grad_masked/")])
@pytest.mark.parametrize("name", NAMES)
def test_gradients(name, mode, root, tmp_path):
    arrays, model = fixture(name), model_of(name)
    gradients = {key.removeprefix(root): value for key, value in arrays.items() if key.startswith(root)}
    wanted = converted(save(tmp_path / "gradients.npz", gradients))[1]
    model.zero_grad()
    model(**batch_of(arrays, mode)).loss.backward()
    found = {key: value.grad for key, value in model.named_parameters() if value.grad is not None}
    assert found.keys() == wanted.keys()
    for key, value in found.items():
        # an attention does not depend on a bias of all keys: its gradient is rounding
        scale = max(float(wanted[key].norm()), 1e-4)
        assert float((value - wanted[key]).norm()) < 1e-3 * scale, key
    norm = torch.stack([value.norm() for value in found.values()]).norm()
    np.testing.assert_allclose(norm.numpy(), arrays[f"global_norm{root.removeprefix('grad').rstrip('/')}"], rtol=1e-4)
