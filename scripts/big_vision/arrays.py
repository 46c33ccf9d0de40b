"""Conversions of big_vision's arrays to Transformers' parameters.

Letters of shapes: D width, F width of the MLP, N heads, K key-value heads, H width of a head. Every function
accepts meta tensors, so that shapes can be checked before anything is written.
"""

import torch
from torch import Tensor


def same(array: Tensor) -> Tensor:
    """The array unchanged."""
    return array


def flat(array: Tensor) -> Tensor:
    """[N, H] or [1, …] as a vector."""
    return array.reshape(-1)


def transposed(kernel: Tensor) -> Tensor:
    """[in, out] to torch's [out, in]."""
    return kernel.T


def into_heads(kernel: Tensor) -> Tensor:
    """Query, key or value kernel [D, N, H] to [N·H, D]."""
    return kernel.flatten(1).T


def out_of_heads(kernel: Tensor) -> Tensor:
    """Output kernel [N, H, D] to [D, N·H]."""
    return kernel.flatten(0, 1).T


def heads_first(weights: Tensor) -> Tensor:
    """Gemma's query, key or value [N, D, H] to [N·H, D]."""
    return weights.transpose(1, 2).flatten(0, 1)


def heads_apart(weights: Tensor) -> tuple[Tensor, ...]:
    """[2 or 3, N, D, H], keys and values or all three, to [N·H, D] each."""
    return tuple(heads_first(part) for part in weights)


def gate_and_up(weights: Tensor) -> tuple[Tensor, ...]:
    """[2, D, F] to [F, D] each."""
    return weights[0].T, weights[1].T


def joined_kernels(*kernels: Tensor) -> Tensor:
    """Query, key and value kernels of the pooling head, as torch's `MultiheadAttention` keeps them."""
    return torch.cat([into_heads(kernel) for kernel in kernels])


def joined_biases(*biases: Tensor) -> Tensor:
    """The biases that belong to `joined_kernels`."""
    return torch.cat([flat(bias) for bias in biases])


def identity_head(scale: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of a linear layer that changes nothing, as wide as `scale`."""
    return torch.eye(len(scale), dtype=scale.dtype, device=scale.device), torch.zeros_like(scale)


def patch_kernel(kernel: Tensor) -> Tensor:
    """[height, width, 3, D] to a convolution's [D, 3, height, width]."""
    return kernel.permute(3, 2, 0, 1)


def pad_vocabulary(table: Tensor, rows: int) -> Tensor:
    """Add rows that are the mean of the others.

    Output and input embeddings are the same table. The logit of a mean row is the mean of all logits, so it is never
    the greatest and adds next to nothing to the softmax; a zero row's would be 0, which wins where all are negative.
    """
    if rows == len(table):
        return table
    # in parts: the float32 copy of the whole would be as large as the table
    mean = torch.stack([part.float().sum(0) for part in table.split(4096)]).sum(0) / len(table)
    padded = table.new_empty(rows, table.shape[1])
    padded[: len(table)] = table
    padded[len(table) :] = mean.to(table.dtype)
    return padded
