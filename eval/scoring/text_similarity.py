"""Similarity of texts by any text encoder of Transformers."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import normalize
from transformers import AutoModel, AutoTokenizer

from openpali.modeling.checkpoints import load_checkpoint, reading


def text_similarities(encoder: str, texts: Sequence[str], others: Sequence[str]) -> list[float]:
    """The cosine similarity of each text with the other one of the same place, of means over tokens; on the CPU.

    Args:
        encoder: folder or Hub name.
        texts: n texts; an empty one has the similarity 0.
        others: n texts.

    Raises:
        OSError: there is no such encoder.
    """
    model: Any = load_checkpoint(AutoModel, encoder).eval()
    with reading(encoder):
        tokenizer = AutoTokenizer.from_pretrained(encoder)
    longest = most_tokens(model, tokenizer)
    distinct = list(dict.fromkeys([*texts, *others]))
    rows = []
    for start in range(0, len(distinct), 64):
        some = distinct[start : start + 64]
        inputs = tokenizer(some, padding=True, truncation=True, max_length=longest, return_tensors="pt")
        with torch.no_grad():
            tokens = model(**inputs).last_hidden_state.float()
        mask = inputs["attention_mask"][..., None].float()
        rows.append(normalize((tokens * mask).sum(1) / mask.sum(1).clamp(min=1), dim=-1))
    embeds = dict(zip(distinct, torch.cat(rows), strict=True))
    return [float(embeds[one] @ embeds[two]) if one else 0.0 for one, two in zip(texts, others, strict=True)]


def most_tokens(model: Any, tokenizer: Any) -> int:
    """Tokens that a text encoder takes; many tokenizers do not say, and some positions begin at 2."""
    positions = getattr(model.config, "max_position_embeddings", None) or 512
    return max(1, min(int(tokenizer.model_max_length), positions - 2, 512))
