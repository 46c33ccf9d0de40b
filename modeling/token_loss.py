"""The training loss of both model families: token cross-entropy without a full logits tensor.

Hidden states are gathered at the supervised positions before the LM head, the LM head is applied in chunks of the
vocabulary, and the loss is averaged over each example's tokens before it is averaged over the batch (PaliGemma, arXiv
2407.07726, section 3.2), so that a long answer weighs no more than a short one. What a caller may ask for beside that
is in `loss_request.py`.

Shapes: `B` examples (packed: rows), `L` tokens of a sequence, `T` supervised tokens, `D` width of the text model, `V`
vocabulary, `C` tokens of a chunk of the vocabulary.
"""

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

IGNORE_INDEX = -100
# logits held at a time: 64 MiB in float32
CHUNK_LOGITS = 1 << 24


def token_owners(labels: torch.Tensor, example_ids: torch.Tensor | None) -> torch.Tensor:
    """The example of each supervised token, int[T]; arguments as of `example_losses`."""
    if example_ids is None:
        example_ids = torch.arange(len(labels), device=labels.device)[:, None].expand_as(labels)  # [B, L]
    return example_ids[labels != IGNORE_INDEX]


def select_logits(
    hidden_states: torch.Tensor, head: nn.Module, logits_to_keep: int | torch.Tensor, softcap: float | None
) -> torch.Tensor:
    """Logits of the last `logits_to_keep` positions (0: all), or of these positions: float[B, kept, V]."""
    keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
    return apply_softcap(head(hidden_states[:, keep]), softcap)


def per_example_loss(
    hidden_states: torch.Tensor,
    head: torch.Tensor | nn.Module,
    labels: torch.Tensor,
    label_smoothing: float = 0.0,
    softcap: float | None = None,
    example_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean over the batch of each example's mean token loss, float[]; arguments as of `example_losses`."""
    return example_losses(hidden_states, head, labels, label_smoothing, softcap, example_ids).mean()


def example_losses(
    hidden_states: torch.Tensor,
    head: torch.Tensor | nn.Module,
    labels: torch.Tensor,
    label_smoothing: float = 0.0,
    softcap: float | None = None,
    example_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean token loss of each example.

    Args:
        hidden_states: float[B, L, D]; position i predicts `labels[:, i]` (no shift here).
        head: the LM head, or its weight float[V, D]. A plain `nn.Linear` is read in chunks; a wrapped one (an adapter,
            4 bits, weights offloaded to disk) is called as a whole.
        labels: int[B, L], -100 where there is nothing to predict.
        label_smoothing: ε; the target gets 1-ε, every other token ε/(V-1).
        softcap: logits are `softcap * tanh(logits / softcap)` when given.
        example_ids: int[B, L], the example of each token of packed sequences, from 0 to the last, -1 on padding; one
            example a row when left out.

    Returns:
        float[examples], differentiable; 0 for an example without labels.
    """
    supervised = labels != IGNORE_INDEX  # [B, L]
    targets = labels[supervised]  # [T]
    token_losses = token_cross_entropy(hidden_states[supervised], head, targets, label_smoothing, softcap)  # [T]
    owners = token_owners(labels, example_ids)  # [T]
    examples = len(labels) if example_ids is None else int(example_ids.max()) + 1
    tokens = torch.bincount(owners, minlength=examples)[owners]  # [T], tokens of the example
    return token_losses.new_zeros(examples).index_add(0, owners, token_losses / tokens)


def token_cross_entropy(
    hidden_states: torch.Tensor,
    head: torch.Tensor | nn.Module,
    targets: torch.Tensor,
    label_smoothing: float = 0.0,
    softcap: float | None = None,
) -> torch.Tensor:
    """Cross-entropy of every token.

    Args:
        hidden_states: float[T, D].
        head: see `example_losses`.
        targets: int[T], each in [0, V).
        label_smoothing: see `example_losses`.
        softcap: see `example_losses`.

    Returns:
        float[T], in float32 at least.
    """
    weight, bias = (head, None) if isinstance(head, torch.Tensor) else plain_weights(head)
    if weight is None:
        assert isinstance(head, nn.Module)
        logits = head(hidden_states)
        logits = logits.to(sum_dtype(logits.dtype))
        return cross_entropy_of(apply_softcap(logits, softcap), targets, label_smoothing)
    if torch.is_autocast_enabled(hidden_states.device.type):
        hidden_states = hidden_states.to(torch.get_autocast_dtype(hidden_states.device.type))
    return ChunkedCrossEntropy.apply(hidden_states, weight, targets, label_smoothing, softcap, bias)


def plain_weights(head: nn.Module) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Weight and bias of a head that is a plain linear layer, otherwise None and None.

    accelerate's hooks, which load offloaded weights, replace the module's own `forward`.
    """
    plain = type(head) is nn.Linear and "forward" not in vars(head)
    weight: Any = head.weight
    bias: Any = head.bias
    return (weight, bias) if plain else (None, None)


def cross_entropy_of(logits: torch.Tensor, targets: torch.Tensor, epsilon: float) -> torch.Tensor:
    """The loss of `ChunkedCrossEntropy` from logits, float[T, V], by autograd: float[T]."""
    log_p = logits.log_softmax(dim=1)  # [T, V]
    picked = log_p.gather(1, targets[:, None])[:, 0]  # [T]
    if not epsilon:
        return -picked
    rest = epsilon / (logits.shape[1] - 1)
    return -(1 - epsilon - rest) * picked - rest * log_p.sum(dim=1)


class ChunkedCrossEntropy(torch.autograd.Function):
    """LM head and cross-entropy in chunks of the vocabulary; backward computes the logits again.

    Each chunk of the vocabulary writes its own rows of the weight's gradient. Chunks of tokens would each make a
    gradient as large as the table. With logits z, target t and smoothing ε the loss is
    `lse(z) - (1-ε)·z_t - ε/(V-1)·Σ_{k≠t} z_k`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        epsilon: float,
        softcap: float | None,
        bias: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Compute the loss of each token, float[T]; keep no logits."""
        rest = epsilon / (weight.shape[0] - 1)
        lse = hidden.new_full((hidden.shape[0],), -torch.inf, dtype=sum_dtype(hidden.dtype))  # [T]
        target_logit, logit_sum = torch.zeros_like(lse), torch.zeros_like(lse)
        for begin, rows in vocabulary_chunks(weight, hidden.shape[0]):
            logits = chunk_logits(hidden, rows, softcap, rows_of(bias, begin, rows))  # [T, C]
            lse = torch.logaddexp(lse, logits.logsumexp(dim=1))
            index, inside = targets_inside(targets, begin, rows.shape[0])
            target_logit += logits.gather(1, index)[:, 0] * inside
            if epsilon:
                logit_sum += logits.sum(dim=1)
        ctx.save_for_backward(hidden, weight, targets, lse, bias)
        ctx.epsilon, ctx.softcap = epsilon, softcap
        return lse - (1 - epsilon) * target_logit - rest * (logit_sum - target_logit)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Compute gradients of hidden states and weight, where they are needed."""
        hidden, weight, targets, lse, bias = ctx.saved_tensors
        rest = ctx.epsilon / (weight.shape[0] - 1)
        grad_loss = grads[0][:, None]  # [T, 1]
        # a sum over chunks: bfloat16 would round it at each chunk
        grad_hidden = torch.zeros_like(hidden, dtype=sum_dtype(hidden.dtype)) if ctx.needs_input_grad[0] else None
        grad_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        grad_bias = None if bias is None else torch.empty_like(bias)
        for begin, rows in vocabulary_chunks(weight, hidden.shape[0]):
            logits = chunk_logits(hidden, rows, ctx.softcap, rows_of(bias, begin, rows))  # [T, C]
            grad = torch.exp(logits - lse[:, None])  # [T, C]
            if ctx.epsilon:
                grad -= rest
            index, inside = targets_inside(targets, begin, rows.shape[0])
            grad.scatter_add_(1, index, -(1 - ctx.epsilon - rest) * inside[:, None].to(grad.dtype))
            grad *= grad_loss
            if ctx.softcap is not None:
                grad *= 1 - (logits / ctx.softcap).square()
            if grad_bias is not None:
                grad_bias[begin : begin + rows.shape[0]] = grad.sum(dim=0)
            grad = grad.to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden += grad @ rows.to(hidden.dtype)
            if grad_weight is not None:
                grad_weight[begin : begin + rows.shape[0]] = grad.T @ hidden
        grad_states = None if grad_hidden is None else grad_hidden.to(hidden.dtype)
        return grad_states, grad_weight, None, None, None, grad_bias


def vocabulary_chunks(weight: torch.Tensor, tokens: int) -> Any:
    """Split the weight, float[V, D], into chunks: pairs of the first row's number and float[C, D]."""
    size = max(1024, CHUNK_LOGITS // max(tokens, 1))
    return ((begin, weight[begin : begin + size]) for begin in range(0, weight.shape[0], size))


def rows_of(bias: torch.Tensor | None, begin: int, rows: torch.Tensor) -> torch.Tensor | None:
    """The part of a bias, float[V], that belongs to a chunk float[C, D]; None without a bias."""
    return None if bias is None else bias[begin : begin + rows.shape[0]]


def chunk_logits(
    hidden: torch.Tensor, rows: torch.Tensor, softcap: float | None, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Logits of a chunk of the vocabulary, float[T, C], in float32 at least."""
    logits = (hidden @ rows.to(hidden.dtype).T).to(sum_dtype(hidden.dtype))
    if bias is not None:
        logits += bias
    return apply_softcap(logits, softcap)


def apply_softcap(logits: torch.Tensor, softcap: float | None) -> torch.Tensor:
    """Squash logits into (-softcap, softcap); None: leave them."""
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def targets_inside(targets: torch.Tensor, begin: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Column of each target in the chunk, int[T, 1] (any column where it is outside), and whether it is inside."""
    inside = (targets >= begin) & (targets < begin + size)
    return (targets - begin).clamp(0, size - 1)[:, None], inside


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type of sums over the vocabulary."""
    return torch.promote_types(dtype, torch.float32)
