"""Activations that a training step keeps for its backward pass, by running one on tensors without memory.

The layers are Transformers' own, with the adapters, frozen components and autocast of the training. Three layers of
each stack run, and the third stands for all others. Only attention is replaced, by one that keeps what fused GPU
kernels keep: queries, keys, values, outputs, a float32 number for each query, and for SDPA the mask of each layer, in
which T5's relative positions are a number for each head and pair of tokens.
"""

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

SHALLOW = 3


@dataclass(frozen=True)
class Kept:
    """Bytes of activations that a step keeps.

    Attributes:
        example: of each example.
        fixed: independent of the batch: autocast's copies of weights, relative positions.
        layer: of each example, in the largest layer.
    """

    example: float
    fixed: float
    layer: float


@dataclass
class Layers:
    """Bytes of the inputs and of the kept activations of a stack's layers, in the order in which they ran."""

    inputs: list[int] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)


def shallow(config: PreTrainedConfig) -> Any:
    """A copy of a configuration with `SHALLOW` layers in each stack."""
    config = copy.deepcopy(config)
    for part in all_configs(config):
        for name in ("num_hidden_layers", "num_layers", "num_decoder_layers"):
            if (layers := part.to_dict().get(name)) is not None:
                setattr(part, name, min(layers, SHALLOW))
        if part.to_dict().get("layer_types") is not None:
            part.layer_types = part.layer_types[:SHALLOW]
    return config


def all_configs(config: Any) -> Iterator[Any]:
    """A configuration and its nested configurations."""
    yield config
    for name in config.sub_configs:
        if getattr(config, name) is not None:
            yield from all_configs(getattr(config, name))


def stack_sizes(model: nn.Module) -> dict[str, int]:
    """Number of layers of each stack, by the stack's name."""
    sizes: dict[str, int] = {}
    for name, module in model.named_modules():
        if isinstance(module, GradientCheckpointingLayer):
            stack = name.rpartition(".")[0]
            sizes[stack] = sizes.get(stack, 0) + 1
    return sizes


class FusedAttention(torch.autograd.Function):
    """Has the shapes of attention and keeps what fused kernels keep; its values are undefined."""

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """float[B, H, L, D]."""
        outputs = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, bias, outputs, query.new_empty(query.shape[:3], dtype=torch.float32))
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of the same shapes."""
        return *(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3]), None


def fused_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    position_bias: torch.Tensor | None = None,
    keep_mask: bool = True,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Replaces Transformers' SDPA, with its arguments; float[B, L, H, D]."""
    kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    groups = query.shape[1] // key.shape[1]
    key, value = (tensor.repeat_interleave(groups, dim=1) if groups > 1 else tensor for tensor in (key, value))
    bias = None
    if keep_mask and position_bias is not None:
        bias = position_bias if attention_mask is None else torch.where(attention_mask, position_bias, 0.0)
    elif keep_mask and attention_mask is not None:
        bias = torch.empty(attention_mask.shape)
    query, key, value = (tensor.to(kind) for tensor in (query, key, value))
    outputs = FusedAttention.apply(query, key, value, None if bias is None else bias.to(kind))
    return outputs.transpose(1, 2).contiguous(), None  # pyright: ignore[reportOptionalMemberAccess]


@contextlib.contextmanager
def fused(keep_mask: bool) -> Iterator[None]:
    """Context in which SDPA is `fused_attention`."""
    ALL_ATTENTION_FUNCTIONS["sdpa"] = functools.partial(fused_attention, keep_mask=keep_mask)
    try:
        yield
    finally:
        del ALL_ATTENTION_FUNCTIONS["sdpa"]


def kept_bytes(
    model: nn.Module,
    sizes: dict[str, int],
    step: Callable[[Any, int], Any],
    autocast: torch.dtype | None,
    keep_mask: bool = True,
) -> tuple[Kept, Kept]:
    """Run the forward pass of a step with one example and with two.

    Args:
        model: shallow, on the meta device, in its dtypes, with adapters and frozen components; it is changed.
        sizes: numbers of layers of the whole model's stacks, of `stack_sizes`.
        step: from model and number of examples to the outputs.
        autocast: dtype of autocast; None without.
        keep_mask: whether attention keeps the mask of each layer, as SDPA does and FlexAttention does not.

    Returns:
        What is kept without activation checkpointing, and with it: inputs of layers, and one whole layer.
    """
    with fused(keep_mask), FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
        one, two = (one_pass(model, sizes, step, examples, autocast) for examples in (1, 2))
    layer = two[2] - one[2]
    without, with_it = (Kept(b - a, max(0.0, 2 * a - b), layer) for a, b in zip(one[:2], two[:2]))
    return without, with_it


def one_pass(
    model: nn.Module,
    sizes: dict[str, int],
    step: Callable[[Any, int], Any],
    examples: int,
    autocast: torch.dtype | None,
) -> tuple[float, float, float]:
    """Bytes kept without activation checkpointing, with it, and in the largest layer."""
    held: set[int] = set()
    seen: dict[int, torch.Tensor] = {parameter.untyped_storage()._cdata: parameter for parameter in model.parameters()}
    stacks, total, alive = {name: Layers() for name in sizes}, 0, []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal total
        storage = tensor.untyped_storage()
        if storage._cdata not in seen:
            # keep a reference, or another storage could get the same address
            seen[storage._cdata] = tensor
            total += storage.nbytes()
        return tensor

    def before(layers: Layers, module: nn.Module, *inputs: Any) -> None:
        tensors = [each for each in tree_leaves(inputs) if isinstance(each, torch.Tensor)]
        storages = {tensor.untyped_storage()._cdata: tensor for tensor in tensors}
        new = {place: tensor for place, tensor in storages.items() if place not in held}
        learns = any(tensor.requires_grad for tensor in (*tensors, *module.parameters()))
        layers.inputs.append(sum(tensor.untyped_storage().nbytes() for tensor in new.values()) if learns else 0)
        held.update(new)
        alive.extend(new.values())
        layers.kept.append(-total)

    def after(layers: Layers) -> None:
        layers.kept[-1] += total

    with contextlib.ExitStack() as stack, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        for name, module in model.named_modules():
            if isinstance(module, GradientCheckpointingLayer):
                own = stacks[name.rpartition(".")[0]]
                first = functools.partial(before, own)
                handle = module.register_forward_pre_hook(first, with_kwargs=True)
                stack.callback(handle.remove)
                handle = module.register_forward_hook(lambda *_, own=own: after(own))
                stack.callback(handle.remove)
        if autocast is not None:
            stack.enter_context(torch.autocast("cpu", autocast))
        outputs = step(model, examples)
    del outputs
    outside = total - sum(sum(layers.kept) for layers in stacks.values())
    # a stack that the step does not run keeps nothing
    stacks = {name: own for name, own in stacks.items() if own.kept}
    whole = sum(sum(own.kept) + (sizes[name] - len(own.kept)) * own.kept[-1] for name, own in stacks.items())
    inputs = sum(sum(own.inputs) + (sizes[name] - len(own.inputs)) * own.inputs[-1] for name, own in stacks.items())
    layer = max((own.kept[-1] for own in stacks.values()), default=0)
    return outside + whole, outside + inputs + layer, layer
