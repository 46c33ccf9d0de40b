"""What is measured, in the order of its worth: each case makes a model and a batch, and returns a step to repeat."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from batches import PREFIX, SUFFIX, image_tokens, mixed_suffixes, pali3_batch, paligemma_batch, pixels, siglip_batch
from models import new_pali3, new_paligemma, new_siglip
from operations import gemma, t5, tower
from torch.nn.functional import logsigmoid, normalize

from openpali.modeling.contrastive_loss import sigmoid_loss

# resolution in pixels: examples in a batch
BATCHES = {224: 16, 448: 8, 896: 2}
MIXED, ROW = 32, 1024


@dataclass
class Prepared:
    """A step and what it does.

    Attributes:
        step: runs it once.
        examples: of a step.
        tokens: of a step, padding left out; 0 where it has none.
        operations: of a step; NaN where they are not counted.
    """

    step: Callable[[], Any]
    examples: int
    tokens: int = 0
    operations: float = float("nan")


Case = tuple[str, Callable[[bool, torch.device], Prepared]]


def training_step(model: Any, batch: dict[str, torch.Tensor]) -> Callable[[], None]:
    """Forward, backward and AdamW on what is trained."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5)

    def step() -> None:
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def paligemma(kind: str, resolution: int, compiled: bool = False) -> Case:
    """A training step of PaliGemma-3B."""

    def prepare(tiny: bool, device: torch.device) -> Prepared:
        model = new_paligemma(kind, resolution, tiny, device)
        count = 2 if tiny else BATCHES[resolution]
        batch = paligemma_batch(model, [SUFFIX] * count)
        images, length = image_tokens(model), batch["input_ids"].shape[1]
        forward = tower(model.config.vision_config, images) + gemma(model.config.text_config, length, SUFFIX)
        passes = 2 if "lora" in kind else 3
        # in place, so that adapters and masks stay those of the model
        if compiled:
            model.compile()
        return Prepared(training_step(model, batch), count, count * length, count * passes * forward)

    return f"PaliGemma 3B, {resolution} px, {kind}{', torch.compile' if compiled else ''}", prepare


def packing(attention: str, packed: bool) -> Case:
    """A step of PaliGemma-3B on a mixture of lengths at 224 px, padded or packed into rows."""

    def prepare(tiny: bool, device: torch.device) -> Prepared:
        model = new_paligemma("full", 224, tiny, device)
        model.set_attn_implementation({"text_config": attention})
        count = 4 if tiny else MIXED
        batch = paligemma_batch(model, mixed_suffixes(count), packed=ROW if packed else None)
        real = batch["sequence_ids"] >= 0 if packed else batch["attention_mask"] > 0
        return Prepared(training_step(model, batch), count, int(real.sum()))

    layout = f"packed in {ROW}" if packed else "padded"
    return f"PaliGemma 3B, 224 px, mixed lengths, {layout}, {attention}", prepare


def pali3(tiny: bool, device: torch.device) -> Prepared:
    """A step of stage 1 of PaLI-3 5B."""
    model, count = new_pali3(tiny, device), 2 if tiny else 16
    batch = pali3_batch(model, count)
    length = batch["input_ids"].shape[1]
    text = t5(model.config.text_config, length, SUFFIX)
    # nothing below the frozen encoder is trained, so it has no backward
    forward = tower(model.config.vision_config, image_tokens(model)) + 3 * text
    return Prepared(training_step(model, batch), count, count * (length + SUFFIX), count * forward)


def siglip(tiny: bool, device: torch.device) -> Prepared:
    """A step of SigLIP B/16, both towers and the loss."""
    model, count = new_siglip(tiny, device), 8 if tiny else 256
    batch = siglip_batch(model, count)
    text = model.config.text_config
    forward = tower(model.config.vision_config, image_tokens(model)) + tower(text, text.max_position_embeddings)
    return Prepared(training_step(model, batch), count, operations=count * 3 * forward)


def contrastive(pairs: int, full_matrix: bool) -> Case:
    """Forward and backward of the sigmoid loss alone, on embeddings of 768."""

    def full(images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        logits = images @ texts.T * scale.exp() + bias
        return -logsigmoid((2 * torch.eye(len(logits), device=logits.device) - 1) * logits).sum() / len(logits)

    def prepare(tiny: bool, device: torch.device) -> Prepared:
        count = 64 if tiny else pairs
        images, texts = (normalize(torch.randn(count, 768, device=device)).requires_grad_() for _ in range(2))
        scale, bias = (torch.tensor([value], device=device, requires_grad=True) for value in (2.3, -10.0))
        loss: Any = full if full_matrix else sigmoid_loss
        inputs = (images, texts, scale, bias)
        return Prepared(lambda: torch.autograd.grad(loss(*inputs), inputs), count)

    return f"sigmoid loss, {pairs // 1024}k pairs, {'full matrix' if full_matrix else 'openpali'}", prepare


def generation(questions: int, once: bool) -> Case:
    """Answers of 16 tokens from PaliGemma-3B at 448 px, for several questions an image."""

    def prepare(tiny: bool, device: torch.device) -> Prepared:
        model = new_paligemma("full", 448, tiny, device).eval()
        images = 1 if tiny else 4
        count, pictures = images * questions, pixels(model, images)
        words = torch.randint(3, model.config.image_token_id, (count, PREFIX), device=device)
        ids = torch.cat(
            [torch.full((count, image_tokens(model)), model.config.image_token_id, device=device), words], 1
        )
        inputs: dict[str, Any] = {"input_ids": ids, "token_type_ids": torch.zeros_like(ids)}
        inputs |= {"attention_mask": torch.ones_like(ids), "max_new_tokens": 16, "min_new_tokens": 16}

        def step() -> None:
            with torch.no_grad():
                if once:
                    features = model.get_encoder(modality="image")(pixel_values=pictures).last_hidden_state
                    given = {"image_features": features.repeat_interleave(questions, dim=0)}
                else:
                    given = {"pixel_values": pictures.repeat_interleave(questions, dim=0)}
                model.generate(**inputs, **given, do_sample=False)

        return Prepared(step, count)

    how = "each image encoded once" if once else "an image for each question"
    return f"PaliGemma 3B, 448 px, {questions} questions an image, {how}", prepare


def all_cases() -> Iterator[Case]:
    """Every case."""
    for resolution in BATCHES:
        for kind in ("stock", "full", "lora", "qlora"):
            yield paligemma(kind, resolution)
    yield packing("sdpa", packed=False)
    yield packing("sdpa", packed=True)
    yield packing("flex_attention", packed=True)
    yield "PaLI-3 5B, 224 px, stage 1, encoder frozen", pali3
    yield "SigLIP B/16, 224 px", siglip
    for pairs in (16_384, 65_536):
        for full_matrix in (True, False):
            yield contrastive(pairs, full_matrix)
    for once in (False, True):
        yield generation(8, once)
    yield paligemma("full", 224, compiled=True)
