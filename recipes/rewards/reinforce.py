"""The loss of REINFORCE: advantages of samples, and the soft targets of confidences (arXiv 2302.08242).

Shapes: `B` prompts, `K` samples of each, `T` tokens, `C` classes.
"""

import torch


def advantages(rewards: torch.Tensor, first_only: bool = False) -> torch.Tensor:
    """The reward of each sample less the mean of the others' of its prompt.

    Args:
        rewards: float[B, K], K of at least 2.
        first_only: whether the first sample alone is trained; the others are its baseline, as in the released code.

    Returns:
        float[B, K]; 0 for samples that are not trained.
    """
    others = (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1)
    found = rewards - others
    if first_only:
        found = torch.cat([found[:, :1], torch.zeros_like(found[:, 1:])], dim=1)
    return found


def reinforce(token_losses: torch.Tensor, advantage: torch.Tensor) -> torch.Tensor:
    """The loss of each sample's tokens, whose gradient is that of -advantage * log p.

    Args:
        token_losses: float[N, T], -log p of each token of a sample; 0 for padding.
        advantage: float[N], without gradient.

    Returns:
        float[N, T].
    """
    return advantage.detach()[:, None] * token_losses


def soft_cross_entropy(log_p: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of log-probabilities against shares, both float[..., C], over the last dimension."""
    return -(targets.detach() * log_p).sum(-1)


def confidence_targets(ious: torch.Tensor) -> torch.Tensor:
    """The shares of unsure and sure for boxes of these IoU, float[..., 2]."""
    return torch.stack([1 - ious, ious], dim=-1)


def divergence(token_losses: torch.Tensor, start_losses: torch.Tensor) -> torch.Tensor:
    """An estimate of the divergence from the start at each token, not negative (Schulman's k3).

    Args:
        token_losses: float[N, T], -log p of the model; 0 for padding.
        start_losses: the same of the start, without gradient.

    Returns:
        float[N, T]; its mean over samples of the model is KL(model || start).
    """
    ratio = token_losses - start_losses.detach()  # log of the start's p less the model's
    return torch.expm1(ratio) - ratio
