"""One tiny PaLI-3 for every text model, with a projector that is not zero so that images count."""

import copy
from typing import Any

import torch

from openpali import Pali3Config, Pali3ForConditionalGeneration

VOCABULARY, IMAGE, PAD, END = 64, 60, 0, 1
SIDE, PATCH, IMAGE_TOKENS = 16, 8, 4
WIDTH, HEADS, LAYERS, DECODER_LAYERS = 16, 2, 2, 3

VISION: dict[str, Any] = {
    "model_type": "siglip_vision_model",
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
}
VISION |= {"num_attention_heads": 2, "image_size": SIDE, "patch_size": PATCH}

_T5 = {"vocab_size": VOCABULARY, "d_model": WIDTH, "d_kv": 8, "d_ff": 32, "num_heads": HEADS, "dropout_rate": 0.0}
_T5 |= {"num_layers": LAYERS, "num_decoder_layers": DECODER_LAYERS, "feed_forward_proj": "gated-gelu"}
_T5 |= {"decoder_start_token_id": PAD, "pad_token_id": PAD, "eos_token_id": END, "relative_attention_num_buckets": 8}

# a window below the length of the inputs, so that it matters
_GEMMA = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": 32, "num_attention_heads": HEADS}
_GEMMA |= {"num_key_value_heads": 1, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 4}
_GEMMA |= {"pad_token_id": PAD, "eos_token_id": END, "bos_token_id": 2, "max_position_embeddings": 128}

TEXT: dict[str, dict[str, Any]] = {
    "t5": _T5 | {"model_type": "t5", "tie_word_embeddings": False},
    "t5_tied": _T5 | {"model_type": "t5"},
    "umt5": _T5 | {"model_type": "umt5"},
    "t5gemma": {
        "model_type": "t5gemma",
        "encoder": _GEMMA | {"num_hidden_layers": LAYERS},
        "decoder": _GEMMA | {"num_hidden_layers": DECODER_LAYERS},
        "vocab_size": VOCABULARY,
    },
}
KINDS = list(TEXT)


def tiny_config(kind: str, **fields) -> Pali3Config:
    parts = {"vision_config": copy.deepcopy(VISION), "text_config": copy.deepcopy(TEXT[kind])}
    return Pali3Config(**parts, image_token_id=IMAGE, **fields)


def tiny_pali3(kind: str, seed: int = 2, **fields) -> Any:
    torch.manual_seed(seed)
    model: Any = Pali3ForConditionalGeneration(tiny_config(kind, **fields)).eval()
    torch.nn.init.normal_(model.model.encoder.projector.output.weight, std=0.5)
    # small, or a tied projection would repeat the last token for ever
    torch.nn.init.normal_(model.get_decoder().get_input_embeddings().weight, std=0.1)
    if kind == "t5gemma":
        # its initial weights are so small that all answers are nearly alike
        for name, parameter in model.named_parameters():
            if name.endswith("proj.weight") and "vision" not in name:
                torch.nn.init.normal_(parameter, std=0.3)
        torch.nn.init.normal_(model.get_input_embeddings().weight, std=0.5)
    return model


def tiny_batch(examples: int = 2, words: int = 6, targets: int = 5, seed: int = 1) -> dict[str, torch.Tensor]:
    """One image and `words` tokens for each example; the last example's labels are one shorter."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 50, (examples, IMAGE_TOKENS + words), generator=generator)
    ids[:, :IMAGE_TOKENS] = IMAGE
    labels = torch.randint(3, 50, (examples, targets), generator=generator)
    labels[-1, -1] = -100
    images = torch.rand(examples, 3, SIDE, SIDE, generator=generator) * 2 - 1
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": images, "labels": labels}


def without(batch: dict[str, torch.Tensor], *names: str) -> dict[str, torch.Tensor]:
    return {key: value for key, value in batch.items() if key not in names}


def logits_of(model: Any, **changes: Any) -> torch.Tensor:
    """Logits of `tiny_batch` with other inputs, its labels as the decoder's inputs; float[B, S, V]."""
    batch = without(tiny_batch(), "labels") | {"decoder_input_ids": tiny_batch()["labels"].clamp(min=0)} | changes
    with torch.no_grad():
        return model(**batch).logits
