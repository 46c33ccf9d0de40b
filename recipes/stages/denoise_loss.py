"""Loss and scores of an encoder-decoder that learns to denoise, without the logits of a whole batch."""

import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import Seq2SeqLMOutput

from openpali.modeling.modeling_pali3 import embedding_tables
from openpali.modeling.token_loss import IGNORE_INDEX, per_example_loss, token_cross_entropy

Mean = Literal["example", "token"]
T5_LIKE = ("t5", "umt5", "mt5")


def decoder_states(model: Any, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, float | None]:
    """What a T5, UMT5 or T5Gemma projects to the vocabulary, the projection's weight, and its soft-cap.

    Args:
        model: the encoder-decoder.
        batch: `input_ids`, `attention_mask`: int[B, L]; `labels`: int[B, T], -100 on padding.

    Returns:
        float[B, T, D], float[V, D], and the cap or None.
    """
    ids, mask = batch["input_ids"], batch["attention_mask"]
    encoded = model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
    states = model.get_decoder()(
        input_ids=model.prepare_decoder_input_ids_from_labels(batch["labels"]),
        encoder_hidden_states=encoded,
        encoder_attention_mask=mask,
        use_cache=False,
    ).last_hidden_state
    config, weight = model.config, model.get_output_embeddings().weight
    if config.model_type not in T5_LIKE:
        return states, weight, config.decoder.final_logit_softcapping
    return states * (states.shape[-1] ** -0.5 if scales_outputs(model) else 1.0), weight, None


def scales_outputs(model: Any) -> bool:
    """Whether a T5-like model was trained with states over the root of their width: as stage 1 takes it to be.

    UMT5's published weights were not, though Transformers' class always divides; those have a projection of their own.
    """
    if model.config.model_type == "t5":
        return bool(model.config.scale_decoder_outputs)
    head = model.get_output_embeddings().weight
    return any(head.data_ptr() == table.data_ptr() for table in embedding_tables(model))


def is_known(model: PreTrainedModel) -> bool:
    """Whether `decoder_states` knows how this model comes to its logits; others compute them in their own forward."""
    return model.config.model_type in (*T5_LIKE, "t5gemma")


def batch_loss(model: PreTrainedModel, batch: Mapping[str, torch.Tensor], mean: Mean) -> torch.Tensor:
    """Cross-entropy of a batch.

    Args:
        model: any encoder-decoder.
        batch: of `pad_collate`.
        mean: "example": over an example's tokens, then over examples. "token": over the tokens of the batch, so that
            long targets count for more; with accumulation and on several processes each part has its own mean.
    """
    labels = batch["labels"]
    if is_known(model):
        states, weight, cap = decoder_states(model, batch)
    else:
        return plain_loss(type(model).forward(model, **batch).logits, labels, mean)
    if mean == "example":
        return per_example_loss(states, weight, labels, softcap=cap)
    inside = labels != IGNORE_INDEX
    return token_cross_entropy(states[inside], weight, labels[inside], softcap=cap).mean()


def plain_loss(logits: torch.Tensor, labels: torch.Tensor, mean: Mean) -> torch.Tensor:
    """The same of logits, float[B, T, V]."""
    losses = nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="none")
    inside, losses = labels != IGNORE_INDEX, losses.view_as(labels)
    if mean == "token":
        return losses.sum() / inside.sum()
    return (losses.sum(1) / inside.sum(1)).mean()


def give_loss(model: PreTrainedModel, mean: Mean) -> None:
    """Let the model's call answer with the loss alone; what is saved stays a stock model.

    The loss is part of the call since wrappers of the model, such as DDP's and autocast's, act on its call.
    """

    def forward(self: PreTrainedModel, **batch: torch.Tensor) -> Seq2SeqLMOutput:
        return Seq2SeqLMOutput(loss=batch_loss(self, batch, mean))  # pyright: ignore[reportArgumentType]

    model.forward = types.MethodType(forward, model)  # pyright: ignore[reportAttributeAccessIssue]


@torch.no_grad()
def denoising_scores(
    model: PreTrainedModel,
    examples: Mapping[str, Sequence[Mapping[str, Any]]],
    collate: Callable[[Sequence[Mapping[str, Any]]], dict[str, torch.Tensor]],
    batch_size: int,
) -> dict[str, dict[str, float]]:
    """Loss (nats a token) and share of tokens predicted rightly, given those before them, for each denoiser.

    Args:
        model: any encoder-decoder.
        examples: of each denoiser, by its name.
        collate: makes a batch.
        batch_size: examples of a batch.
    """
    device, scores = next(model.parameters()).device, {}
    for name, items in examples.items():
        loss, right, count = 0.0, 0, 0
        for start in range(0, len(items), batch_size):
            batch = {key: value.to(device) for key, value in collate(items[start : start + batch_size]).items()}
            logits, targets = supervised_logits(model, batch)
            loss += float(nn.functional.cross_entropy(logits.float(), targets, reduction="sum"))
            right, count = right + int((logits.argmax(-1) == targets).sum()), count + len(targets)
        scores[name] = {"loss": loss / count, "token_accuracy": right / count, "examples": len(items), "tokens": count}
    return scores


def supervised_logits(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """float[N, V] and int[N] of the places that have a label."""
    inside = batch["labels"] != IGNORE_INDEX
    if not is_known(model):
        return type(model).forward(model, **batch).logits[inside], batch["labels"][inside]
    states, weight, cap = decoder_states(model, batch)
    logits = states[inside] @ weight.T
    return logits if cap is None else cap * torch.tanh(logits / cap), batch["labels"][inside]


def by_kind(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Means of the denoisers of one kind, as `R_loss` and `R_token_accuracy`, and of all, as `negative_loss`."""
    found: dict[str, float] = {}
    for kind in dict.fromkeys(name[0] for name in scores):
        rows = [row for name, row in scores.items() if name[0] == kind]
        found |= {f"{kind}_{key}": mean_of(rows, key) for key in ("loss", "token_accuracy")}
    rows = list(scores.values())
    return found | {"token_accuracy": mean_of(rows, "token_accuracy"), "negative_loss": -mean_of(rows, "loss")}


def mean_of(rows: Sequence[Mapping[str, float]], key: str) -> float:
    """Mean of a column."""
    return sum(row[key] for row in rows) / len(rows)
