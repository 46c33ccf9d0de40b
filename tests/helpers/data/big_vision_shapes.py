"""Shapes of big_vision checkpoints of any size, without their arrays."""

import torch

from openpali.scripts.big_vision.npz import Source


def source(*shape: int, layers: int | None = None) -> Source:
    return Source(("somewhere",), shape, layers, torch.float32)


def tower(root: str, width: int, hidden: int, heads: int, layers: int) -> dict[str, Source]:
    """Shapes of a SigLIP tower's layers; `root` ends before `encoderblock`."""
    block = f"{root}encoderblock/"
    attention = f"{block}MultiHeadDotProductAttention_0/"
    head = width // heads
    found = {
        f"{block}MlpBlock_0/Dense_0/kernel": source(width, hidden, layers=layers),
        f"{block}MlpBlock_0/Dense_0/bias": source(hidden, layers=layers),
        f"{block}MlpBlock_0/Dense_1/kernel": source(hidden, width, layers=layers),
        f"{block}MlpBlock_0/Dense_1/bias": source(width, layers=layers),
        f"{attention}out/kernel": source(heads, head, width, layers=layers),
        f"{attention}out/bias": source(width, layers=layers),
    }
    for name in ("query", "key", "value"):
        found[f"{attention}{name}/kernel"] = source(width, heads, head, layers=layers)
        found[f"{attention}{name}/bias"] = source(heads, head, layers=layers)
    for part in ("scale", "bias"):
        found |= {f"{block}LayerNorm_{number}/{part}": source(width, layers=layers) for number in (0, 1)}
        found[f"{root}encoder_norm/{part}"] = source(width)
    return found


def image_tower(width: int, hidden: int, heads: int, layers: int, patch: int, px: int) -> dict[str, Source]:
    """Shapes of an image tower without head."""
    return tower("img/Transformer/", width, hidden, heads, layers) | {
        "img/embedding/kernel": source(patch, patch, 3, width),
        "img/embedding/bias": source(width),
        "img/pos_embedding": source(1, (px // patch) ** 2, width),
    }


def pooling_head(width: int, hidden: int, heads: int) -> dict[str, Source]:
    """Shapes of the MAP head."""
    root = "img/MAPHead_0/"
    one_layer = tower("", width, hidden, heads, 1)
    found = {
        key.replace("encoderblock/", root): source(*value.shape)
        for key, value in one_layer.items()
        if key.startswith("encoderblock/") and "LayerNorm_1" not in key
    }
    return found | {f"{root}probe": source(1, 1, width)}


def gemma(
    rows: int, width: int, layers: int, hidden: int, heads: int, key_value_heads: int, head: int, second: bool
) -> dict[str, Source]:
    """Shapes of a Gemma's arrays; `second`: with Gemma 2's norms."""
    root = "llm/layers/"
    norms = ("pre_attention_norm", "pre_ffw_norm", *(("post_attention_norm", "post_ffw_norm") if second else ()))
    return {
        "llm/embedder/input_embedding": source(rows, width),
        "llm/final_norm/scale": source(width),
        f"{root}attn/q_einsum/w": source(heads, width, head, layers=layers),
        f"{root}attn/kv_einsum/w": source(2, key_value_heads, width, head, layers=layers),
        f"{root}attn/attn_vec_einsum/w": source(heads, head, width, layers=layers),
        f"{root}mlp/gating_einsum": source(2, width, hidden, layers=layers),
        f"{root}mlp/linear": source(hidden, width, layers=layers),
        **{f"{root}{norm}/scale": source(width, layers=layers) for norm in norms},
    }
