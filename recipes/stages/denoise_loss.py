"""Loss and scores of denoising with an encoder-decoder, without the logits of a whole batch."""

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
    """Decoder states of a T5, UMT5 or T5Gemma, the weight of its LM head, and its soft-cap.

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
    """Whether a T5-like model divides decoder states by the root of their width, as stage 1 does.

    Transformers' class for UMT5 always divides, but the published weights, which have an untied LM head, must not be.
    """
    if model.config.model_type == "t5":
        return bool(model.config.scale_decoder_outputs)
    head = model.get_output_embeddings().weight
    return any(head.data_ptr() == table.data_ptr() for table in embedding_tables(model))


def is_supported(model: PreTrainedModel) -> bool:
    """Whether `decoder_states` supports the model; others compute logits in their own forward."""
    return model.config.model_type in (*T5_LIKE, "t5gemma")


def batch_loss(model: PreTrainedModel, batch: Mapping[str, torch.Tensor], mean: Mean) -> torch.Tensor:
    """Cross-entropy of a batch.

    Args:
        model: any encoder-decoder.
        batch: of `pad_collate`.
        mean: "example": over an example's tokens, then over examples. "token": over the tokens of the batch, so that
            long targets count for more; each micro-batch of each process has its own mean.
    """
    labels = batch["labels"]
    if is_supported(model):
        states, weight, cap = decoder_states(model, batch)
    else:
        return plain_loss(type(model).forward(model, **batch).logits, labels, mean)
    if mean == "example":
        return per_example_loss(states, weight, labels, softcap=cap)
    inside = labels != IGNORE_INDEX
    return token_cross_entropy(states[inside], weight, labels[inside], softcap=cap).mean()


def plain_loss(logits: torch.Tensor, labels: torch.Tensor, mean: Mean) -> torch.Tensor:
    """The same from logits, float[B, T, V]."""
    losses = nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="none")
    inside, losses = labels != IGNORE_INDEX, losses.view_as(labels)
    if mean == "token":
        return losses.sum() / inside.sum()
    return (losses.sum(1) / inside.sum(1)).mean()


def return_loss(model: PreTrainedModel, mean: Mean) -> None:
    """Make the model's forward return the loss alone; saved checkpoints stay stock.

    The loss is part of the forward since wrappers such as DDP and autocast act on it.
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
    """Loss (nats a token) and teacher-forced token accuracy of each denoiser.

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
    """Logits and labels, float[N, V] and int[N], of the positions that have a label."""
    inside = batch["labels"] != IGNORE_INDEX
    if not is_supported(model):
        return type(model).forward(model, **batch).logits[inside], batch["labels"][inside]
    states, weight, cap = decoder_states(model, batch)
    logits = states[inside] @ weight.T
    return logits if cap is None else cap * torch.tanh(logits / cap), batch["labels"][inside]


def by_kind(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Means over the denoisers of a kind (`R_loss`, `R_token_accuracy`), and over all (`negative_loss`)."""
    found: dict[str, float] = {}
    for kind in dict.fromkeys(name[0] for name in scores):
        rows = [row for name, row in scores.items() if name[0] == kind]
        found |= {f"{kind}_{key}": mean_of(rows, key) for key in ("loss", "token_accuracy")}
    rows = list(scores.values())
    return found | {"token_accuracy": mean_of(rows, "token_accuracy"), "negative_loss": -mean_of(rows, "loss")}


def mean_of(rows: Sequence[Mapping[str, float]], key: str) -> float:
    """Mean of a column."""
    return sum(row[key] for row in rows) / len(rows)
