"""Advantages and the loss against the authors' formula, with its gradient; the divergence."""

from pathlib import Path

import numpy as np
import pytest
import torch

from openpali.recipes.rewards.reinforce import (
    advantages,
    confidence_targets,
    divergence,
    reinforce,
    soft_cross_entropy,
)

FIXTURE = np.load(Path(__file__).parents[2] / "fixtures" / "detection_reward.npz")
LENGTH, BOX, CONFIDENCE_WEIGHT = 18, 6, 0.3


def tensor(key):
    return torch.tensor(FIXTURE[key])


def test_the_baseline_is_the_mean_of_the_other_samples():
    rewards = tensor("loo/out/reward_as_code")
    assert torch.allclose(advantages(rewards), tensor("loo/out/advantage_all_samples"), atol=1e-6)
    first = advantages(rewards, first_only=True)
    assert torch.allclose(first[:, 0], tensor("loo/out/advantage_sample0"), atol=1e-6)
    assert not first[:, 1:].any()
    mean = advantages(tensor("loo/out/reward_mean10"), first_only=True)
    assert torch.allclose(mean[:, 0], tensor("loo/out/advantage_sample0_mean10"), atol=1e-6)


def test_loss_and_gradient_are_those_of_the_authors_formula():
    logits = tensor("loss/in/logits").requires_grad_()
    labels, ious = tensor("loss/in/labels").long(), tensor("loss/in/match_iou")
    log_p = logits.log_softmax(-1)
    token_losses = -log_p.gather(2, labels[..., None])[..., 0]
    of_tokens = reinforce(token_losses, tensor("loss/in/rewards") - tensor("loss/in/baselines"))
    assert torch.allclose(of_tokens, tensor("loss/out/reward_per_token"), rtol=1e-5)
    # boxes of padding are to have confidence 0, others one of 1 and 2, by the overlap
    padding = labels[:, BOX - 1 :: BOX] == 0
    targets = torch.nn.functional.pad(confidence_targets(ious), (1, 0))
    targets[padding] = torch.tensor([1.0, 0, 0])
    of_boxes = soft_cross_entropy(log_p[:, BOX - 1 :: BOX, :3], targets)
    assert torch.allclose(of_boxes, tensor("loss/out/conf_per_box"), rtol=1e-5)
    total = of_tokens.mean() + CONFIDENCE_WEIGHT * of_boxes.mean()
    assert total.item() == pytest.approx(tensor("loss/out/total").item(), rel=1e-5)
    total.backward()
    assert logits.grad is not None
    # float32 there; most entries are nearly 0
    near = {"rtol": 1e-3, "atol": 1e-7}
    assert torch.allclose(logits.grad[..., :3], tensor("loss/grad/first_three"), **near)
    assert torch.allclose(logits.grad.gather(2, labels[..., None])[..., 0], tensor("loss/grad/labels"), **near)
    assert logits.grad.norm().item() == pytest.approx(tensor("loss/grad/norm").item(), rel=1e-4)


def test_the_divergence_is_zero_at_the_start_and_its_mean_is_kl():
    p, start = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.5, 0.3, 0.2])
    estimates = divergence(-p.log()[:, None], -start.log()[:, None])[:, 0]
    assert (estimates > 0).all()
    kl = (p * (p / start).log()).sum()
    assert (p * estimates).sum().item() == pytest.approx(kl.item(), rel=1e-5)
    assert not divergence(-p.log()[:, None], -p.log()[:, None]).any()
