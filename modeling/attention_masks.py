"""Attention masks of PaliGemma's training: the prefix-LM mask and the mask of packed sequences.

Prefix-LM (PaliGemma, figure 2): image and prefix tokens attend to each other in both directions, suffix tokens attend
to image, prefix and the suffix before them. For generation, stock Transformers builds the same mask.

Shapes: `B` examples (packed: rows), `L` tokens of a sequence, `D` width of the text model.
"""

from collections.abc import Callable
from typing import Any

import torch
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from .transformers_versions import CACHE

ATTENTIONS = ("eager", "sdpa", "flex_attention")


def prefix_lm_mask(
    config: Any,
    embeds: torch.Tensor,
    attention_mask: torch.Tensor | None,
    token_type_ids: torch.Tensor | None,
    sequence_ids: torch.Tensor | None,
) -> Any:
    """Make the prefix-LM mask: token type 0 attends in both directions, token type 1 is causal.

    1: the token of the row attends to the token of the column. i: image, p: prefix, s: suffix, dot: padding.

    One example, `token_type_ids = [0 0 0 0 1 1 0]`, `attention_mask = [1 1 1 1 1 1 0]`:

              i i p p s s .
        i    [1 1 1 1 0 0 0]
        i    [1 1 1 1 0 0 0]
        p    [1 1 1 1 0 0 0]
        p    [1 1 1 1 0 0 0]
        s    [1 1 1 1 1 0 0]
        s    [1 1 1 1 1 1 0]
        .    [1 1 1 1 1 1 0]

    Two packed examples, `token_type_ids = [0 0 1 0 0 1 1 0]`, `sequence_ids = [0 0 0 1 1 1 1 -1]`. No token attends to
    another example. Padding attends to padding, since no row of a mask may be empty:

              i p s i p s s .
        i    [1 1 0 0 0 0 0 0]
        p    [1 1 0 0 0 0 0 0]
        s    [1 1 1 0 0 0 0 0]
        i    [0 0 0 1 1 0 0 0]
        p    [0 0 0 1 1 0 0 0]
        s    [0 0 0 1 1 1 0 0]
        s    [0 0 0 1 1 1 1 0]
        .    [0 0 0 0 0 0 0 1]

    Args:
        config: of the text model, Gemma or Gemma 2.
        embeds: float[B, L, D], for shape, type and device.
        attention_mask: int[B, L], 0 on padding; not used for packed sequences.
        token_type_ids: int[B, L].
        sequence_ids: int[B, L], the example of each token, -1 on padding; None where a row is one example.

    Returns:
        The text model's `attention_mask`: bool or float[B, 1, L, L], or a `BlockMask`; for Gemma 2 a dict with one
        for each type of layer.

    Raises:
        ValueError: no `token_type_ids`, or an attention implementation that cannot do prefix-LM.
    """
    if config._attn_implementation not in ATTENTIONS:
        raise ValueError(
            f"attention {config._attn_implementation!r} cannot do prefix-LM (it would train causal prefixes);"
            f" load the model with attn_implementation set to one of {', '.join(ATTENTIONS)}"
        )
    if token_type_ids is None:
        raise ValueError(
            "labels need token_type_ids (0 on image and prefix, 1 on the suffix), or the suffix would be seen"
            " before it is predicted; the processor returns them"
        )
    examples = torch.zeros_like(token_type_ids) if sequence_ids is None else sequence_ids
    options: dict[str, Any] = {
        "config": config,
        "inputs_embeds": embeds,
        "attention_mask": attention_mask if sequence_ids is None else None,
        CACHE: None,
        # tokens of one block attend to each other in both directions; -1 is in no block, so causal
        "block_sequence_ids": torch.where(token_type_ids == 0, examples, -1),  # [B, L]
        "and_mask_function": None if sequence_ids is None else same_example(sequence_ids),
    }
    full = create_causal_mask(**options)  # [B, 1, L, L]
    if getattr(config, "sliding_window", None) is None:
        return full if config.model_type == "gemma" else {"full_attention": full}
    return {"full_attention": full, "sliding_attention": create_sliding_window_causal_mask(**options)}


def same_example(sequence_ids: torch.Tensor) -> Callable[..., torch.Tensor]:
    """Make the packing mask, which is 1 where two tokens belong to the same example.

    `sequence_ids = [0 0 0 1 1 1 1 -1]`:

        [1 1 1 0 0 0 0 0]
        [1 1 1 0 0 0 0 0]
        [1 1 1 0 0 0 0 0]
        [0 0 0 1 1 1 1 0]
        [0 0 0 1 1 1 1 0]
        [0 0 0 1 1 1 1 0]
        [0 0 0 1 1 1 1 0]
        [0 0 0 0 0 0 0 1]

    Args:
        sequence_ids: int[B, L].

    Returns:
        A mask function of Transformers, from indices of batch, head, query and key to bool.
    """

    def mask(batch: Any, head: Any, query: Any, key: Any) -> torch.Tensor:
        return sequence_ids[batch, query] == sequence_ids[batch, key]

    return mask
