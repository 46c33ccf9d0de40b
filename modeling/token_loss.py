"""The training loss of both model families: token cross-entropy without a full logits tensor.

Hidden states are gathered at the supervised positions before the vocabulary projection, the projection is
chunked, and the loss is averaged over each example's tokens before it is averaged over the batch (PaliGemma,
arXiv 2407.07726, section 3.2), so that a long answer weighs no more than a short one.
"""

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

IGNORE_INDEX = -100
# below this many logits (64 MiB in float32) one matrix product is faster than chunks, and memory is no concern
UNCHUNKED_LOGITS = 1 << 24
SOFTCAP_CHUNK = 512


def per_example_loss(
    hidden_states: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    label_smoothing: float = 0.0,
    softcap: float | None = None,
) -> torch.Tensor:
    """Mean over the batch of each example's mean token loss.

    Args:
        hidden_states: float[B, L, D], position i predicts `labels[:, i]` (already aligned, no shift here).
        weight: float[V, D], the vocabulary projection.
        labels: int[B, L], -100 where there is nothing to predict.
        label_smoothing: ε; the target gets 1-ε, every other token ε/(V-1).
        softcap: logits are `softcap * tanh(logits / softcap)` when given.

    Returns:
        float[], differentiable. An example without any label adds zero and still counts in the batch.
    """
    supervised = labels != IGNORE_INDEX
    token_losses = token_cross_entropy(hidden_states[supervised], weight, labels[supervised], label_smoothing, softcap)
    counts = supervised.sum(dim=1)
    example_weight = 1.0 / (counts.clamp(min=1) * labels.shape[0])
    weights = example_weight.repeat_interleave(counts).to(token_losses.dtype)
    return (token_losses * weights).sum()


def token_cross_entropy(
    hidden_states: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    label_smoothing: float = 0.0,
    softcap: float | None = None,
) -> torch.Tensor:
    """Cross-entropy of every token.

    Args:
        hidden_states: float[N, D].
        weight: float[V, D].
        targets: int[N], each in [0, V).
        label_smoothing: see `per_example_loss`.
        softcap: see `per_example_loss`.

    Returns:
        float[N] in float32 at least.
    """
    if hidden_states.shape[0] == 0:
        # keeps every parameter in the graph, which distributed training relies on
        return (hidden_states.sum() + 0.0 * weight.sum()).reshape(1)[:0]
    if softcap is not None:
        return _softcapped(hidden_states, weight, targets, label_smoothing, softcap)
    loss = _plain(hidden_states, weight, targets)
    if label_smoothing:
        loss = loss + _smoothing(hidden_states, weight, targets, label_smoothing)
    return loss


def _plain(hidden_states: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Unsmoothed cross-entropy, chunked by torch once the logits would be large."""
    if hidden_states.shape[0] * weight.shape[0] <= UNCHUNKED_LOGITS:
        return F.cross_entropy(F.linear(hidden_states, weight).float(), targets, reduction="none")
    options = torch.nn.LinearCrossEntropyOptions()
    return F.linear_cross_entropy(hidden_states, weight, targets, reduction="none", options=options).float()


def _smoothing(
    hidden_states: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, epsilon: float
) -> torch.Tensor:
    """What smoothing adds to the cross-entropy: linear in the logits, so no logits tensor is needed.

    With logits z and target t the smoothed loss is lse(z) - (1-ε)·z_t - ε/(V-1)·Σ_{k≠t} z_k.
    """
    target_logit = (hidden_states * weight[targets]).sum(dim=-1).float()
    logit_sum = (hidden_states @ weight.sum(dim=0)).float()
    return epsilon * target_logit - epsilon / (weight.shape[0] - 1) * (logit_sum - target_logit)


def _softcapped(
    hidden_states: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    epsilon: float,
    softcap: float,
) -> torch.Tensor:
    """The same through a tanh, chunk by chunk, logits recomputed in backward."""

    def chunk_loss(hidden: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        logits = softcap * torch.tanh(F.linear(hidden, weight).float() / softcap)
        loss = F.cross_entropy(logits, target, reduction="none")
        if epsilon:
            target_logit = logits.gather(1, target[:, None])[:, 0]
            others = logits.sum(dim=-1) - target_logit
            loss = loss + epsilon * target_logit - epsilon / (weight.shape[0] - 1) * others
        return loss

    chunks = zip(hidden_states.split(SOFTCAP_CHUNK), targets.split(SOFTCAP_CHUNK))
    return torch.cat([checkpoint(chunk_loss, h, t, use_reentrant=False) for h, t in chunks])
