"""Embeddings of images and texts by any SigLIP of Transformers, and features of its image encoder for probes.

`SiglipModel` and `Siglip2Model` embed both; `SiglipForImageClassification` and `SiglipVisionModel` have features only.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar, cast

import torch
from PIL import Image
from torch import nn
from torch.nn.functional import normalize
from tqdm import tqdm
from transformers import PreTrainedModel, Siglip2VisionModel, SiglipVisionModel

from openpali.modeling.image_patches import use_own_positions

logger = logging.getLogger(__name__)

POOLINGS = ("head", "mean")
"""The encoder's attention pooling, which a contrastive model is trained with, or the mean of its tokens."""

Item = TypeVar("Item")


def embed_images(
    model: PreTrainedModel,
    image_processor: Any,
    images: Iterable[Image.Image],
    batch_size: int = 64,
    *,
    progress: bool = False,
) -> torch.Tensor:
    """Embed images; inner products with embeddings of `embed_texts` are similarities.

    Args:
        model: with two towers; its training mode does not change.
        image_processor: of the model.
        images: PIL RGB; a generator is read batch by batch, to save memory.
        batch_size: images at a time.
        progress: show a progress bar.

    Returns:
        float[n, D] of length 1, on the CPU.

    Raises:
        ValueError: there are no images, or the model has no pooling head.
    """
    return normalize(image_features(model, image_processor, images, "head", batch_size, progress=progress), dim=-1)


def image_features(
    model: PreTrainedModel,
    image_processor: Any,
    images: Iterable[Image.Image],
    pooling: str = "head",
    batch_size: int = 64,
    *,
    progress: bool = False,
) -> torch.Tensor:
    """Features of the image encoder, not normalised.

    Args:
        model: an image tower, or a model with one.
        image_processor: of the model.
        images: PIL RGB.
        pooling: one of `POOLINGS`.
        batch_size: images at a time.
        progress: show a progress bar.

    Returns:
        float[n, D] on the CPU.

    Raises:
        ValueError: there are no images, the pooling is unknown, or the encoder lacks it.
    """
    return pooled_features(model, image_processor, images, [pooling], batch_size, progress=progress)[pooling]


def pooled_features(
    model: PreTrainedModel,
    image_processor: Any,
    images: Iterable[Image.Image],
    poolings: Sequence[str],
    batch_size: int = 64,
    *,
    progress: bool = False,
) -> dict[str, torch.Tensor]:
    """`image_features` with several poolings in one forward pass."""
    check_poolings(model, poolings)
    tower = image_tower(model)
    use_own_positions(tower)
    rows: list[dict[str, torch.Tensor]] = []
    with eval_mode(model):
        for batch in tqdm(batches(images, batch_size), desc="images", unit="batch", disable=not progress):
            inputs = image_processor(batch, return_tensors="pt")
            rows.append(pool(tower, inputs.to(model.device, dtype=model.dtype), poolings))
    if not rows:
        raise ValueError("there are no images to embed")
    return {pooling: torch.cat([row[pooling] for row in rows]) for pooling in poolings}


def pool(tower: nn.Module, inputs: Mapping[str, torch.Tensor], poolings: Sequence[str]) -> dict[str, torch.Tensor]:
    """float[n, D] of a batch by pooling; padding patches of a NaFlex image do not count in the mean."""
    outputs = tower(**inputs)
    tokens, mask = outputs.last_hidden_state.float(), inputs.get("pixel_attention_mask")
    if mask is None:
        mask = torch.ones(tokens.shape[:2], device=tokens.device)
    weights = mask.to(tokens)[..., None]
    found = {"mean": (tokens * weights).sum(1) / weights.sum(1)}
    if outputs.pooler_output is not None:
        found["head"] = outputs.pooler_output.float()
    return {pooling: found[pooling].cpu() for pooling in poolings}


def image_tower(model: PreTrainedModel) -> PreTrainedModel:
    """The image encoder of a model with two towers or with a classifier; an image encoder is its own."""
    if isinstance(model, (SiglipVisionModel, Siglip2VisionModel)):
        return model
    return cast(PreTrainedModel, model.vision_model)


def has_head(model: PreTrainedModel) -> bool:
    """Whether the image encoder pools by attention."""
    return bool(image_tower(model).config.vision_use_head)  # pyright: ignore[reportAttributeAccessIssue]


def check_poolings(model: PreTrainedModel, poolings: Sequence[str]) -> None:
    """Raise ValueError for an unknown pooling, or one that the encoder lacks."""
    unknown = [pooling for pooling in poolings if pooling not in POOLINGS]
    if unknown:
        raise ValueError(f"pooling is one of {', '.join(POOLINGS)}, not {unknown[0]!r}")
    if "head" in poolings and not has_head(model):
        raise ValueError(f"this {type(model).__name__} has no pooling head: use pooling 'mean'")


def embed_texts(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    text_length: int | None = None,
    batch_size: int = 64,
    *,
    progress: bool = False,
) -> torch.Tensor:
    """Embed texts; inner products with embeddings of `embed_images` are similarities.

    SigLIP attends to padding and pools the last position, so every text is padded to the training length. Longer texts
    are cut, and a warning counts them. Equal texts are embedded once, so that their scores tie exactly.

    Args:
        model: with two towers; its training mode does not change.
        tokenizer: of the model.
        texts: of any languages.
        text_length: tokens of every text; the model's `max_position_embeddings` when None.
        batch_size: texts at a time.
        progress: show a progress bar.

    Returns:
        float[n, D] of length 1, on the CPU.

    Raises:
        ValueError: there are no texts, or the model has fewer positions than `text_length`.
    """
    if not texts:
        raise ValueError("there are no texts to embed")
    length = check_text_length(model, text_length)
    place = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    chunks, too_long = [], set()
    with eval_mode(model):
        bar = tqdm(total=len(place), desc="texts", unit="text", disable=not progress)
        for batch in batches(place, batch_size):
            # first without padding, to find the texts that are too long
            lengths = [len(ids) for ids in tokenizer(batch, truncation=False, verbose=False)["input_ids"]]
            too_long |= {text for text, tokens in zip(batch, lengths) if tokens > length}
            ids = tokenizer(batch, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
            features = model.get_text_features(input_ids=ids["input_ids"].to(model.device))
            chunks.append(normalize(features.pooler_output.float(), dim=-1).cpu())
            bar.update(len(batch))
        bar.close()
    warn_truncated([text for text in place if text in too_long], len(place), length)
    return torch.cat(chunks)[[place[text] for text in texts]]


def check_text_length(model: Any, text_length: int | None) -> int:
    """Tokens of every text, checked."""
    positions = int(model.config.text_config.max_position_embeddings)
    if text_length is not None and not 1 <= text_length <= positions:
        raise ValueError(f"text_length={text_length}: the model's text tower has 1 to {positions} positions")
    return text_length or positions


def warn_truncated(cut: Sequence[str], total: int, length: int) -> None:
    """One warning for all truncated texts."""
    if cut:
        logger.warning(
            "%d of %d different texts are longer than %d tokens and were cut, the first of them: %r",
            *(len(cut), total, length, cut[0]),
        )


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every module has its previous mode, frozen towers too."""
    modes = {part: part.training for part in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes.items():
            part.training = training


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of up to `size` items, read lazily."""
    if size < 1:
        raise ValueError(f"batch_size={size}: at least 1")
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
