"""The sigmoid loss of SigLIP (arXiv 2303.15343) and the softmax loss of CLIP, on one device or on a ring of them.

What departs from the usual implementations:
- no process holds all texts: they pass from process to process (section 3.3 of the paper);
- logits are freed with their block, in training too: the sigmoid loss computes the gradients of a block at once; the
  softmax loss, which needs a whole row first, computes the block again in backward; autograd would keep every block,
  which is the full matrix;
- a block is computed in chunks of its rows, so that memory is `chunk_size` times the texts of one process;
- an image may have several true texts in the batch, and a text several images; keys say which belong together.

Shapes: `N` images, `M` texts, `K` keys of an image, `D` width of the embeddings.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.distributed import ProcessGroup
from torch.nn.functional import logsigmoid

from .ring_exchange import Ring

# t' and b, the learnable scale and bias that `SiglipModel` has as `logit_scale` and `logit_bias`:
# the best pair of the paper's ablation
INITIAL_TEMPERATURE = 10.0
INITIAL_LOGIT_BIAS = -10.0

# logits of a chunk by default: 16 MB in float32
MOST_LOGITS = 2**22


def sigmoid_loss(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    logit_scale: torch.Tensor,
    logit_bias: torch.Tensor,
    image_keys: torch.Tensor | None = None,
    text_keys: torch.Tensor | None = None,
    chunk_size: int | None = None,
    group: ProcessGroup | None = None,
) -> torch.Tensor:
    """Compute SigLIP's loss: binary classification of every image-text pair of the global batch.

    `-sum(log_sigmoid(z * (exp(t') * image . text + b))) / n`, with z = 1 for pairs that belong together and -1
    for the others; n is the number of images in the global batch, not of pairs (section 3.1).

    With several processes, each returns the share of its own images, so that the mean over processes is the global
    loss. DDP and FSDP average the gradients to that of the global loss; every process must weight its loss equally.

    Args:
        image_embeds: float[N, D], L2-normalised, of this process.
        text_embeds: float[M, D], L2-normalised; M = N without keys.
        logit_scale: float[1], t'.
        logit_bias: float[1], b.
        image_keys: int[N, K], keys of the true texts of each image, padded with -1.
        text_keys: int[M], the key of each text, not negative. Image and text belong together if the image has the
            text's key; without keys, if they have the same index. Without keys, two images with the same caption are
            negatives of each other's caption.
        chunk_size: images whose logits are computed at a time; by default such that a chunk has 2^22 logits.
        group: processes that share a global batch; all of them by default. Their batches may differ in size.

    Returns:
        float[], the loss in nats per image.

    Raises:
        ValueError: the shapes do not fit together.
    """
    keys = _keys(image_embeds, text_embeds, image_keys, text_keys, group)
    return _Sigmoid.apply(image_embeds, text_embeds, logit_scale, logit_bias, *keys, chunk_size, group)  # pyright: ignore


def softmax_loss(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    logit_scale: torch.Tensor,
    image_keys: torch.Tensor | None = None,
    text_keys: torch.Tensor | None = None,
    chunk_size: int | None = None,
    group: ProcessGroup | None = None,
) -> torch.Tensor:
    """Compute CLIP's loss (arXiv 2103.00020): the mean of image-to-text and text-to-image cross-entropy.

    Several true texts of an image share its target probability evenly; likewise the images of a text. A text or image
    without any contributes its log-normaliser alone.

    Arguments, processes and errors are those of [`sigmoid_loss`]; a bias would cancel out.

    Returns:
        float[], the loss in nats per image.
    """
    keys = _keys(image_embeds, text_embeds, image_keys, text_keys, group)
    return _Softmax.apply(image_embeds, text_embeds, logit_scale, *keys, chunk_size, group)  # pyright: ignore


@torch.no_grad()
def initialize_logits(
    logit_scale: torch.Tensor,
    logit_bias: torch.Tensor,
    temperature: float = INITIAL_TEMPERATURE,
    bias: float = INITIAL_LOGIT_BIAS,
) -> None:
    """Set t' = log(temperature) and b, by default the paper's; b = -10 starts the many negatives at a loss near 0."""
    logit_scale.fill_(math.log(temperature))
    logit_bias.fill_(bias)


def _keys(
    images: torch.Tensor,
    texts: torch.Tensor,
    image_keys: torch.Tensor | None,
    text_keys: torch.Tensor | None,
    group: ProcessGroup | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Check the keys, or make those of a batch in which every image has its own text: int[N, K] and int[M]."""
    if images.ndim != 2 or texts.ndim != 2 or images.shape[1] != texts.shape[1]:
        raise ValueError(f"embeddings must be float[n, D] and float[m, D], not {[*images.shape]} and {[*texts.shape]}")
    if (image_keys is None) != (text_keys is None):
        raise ValueError("give both image_keys and text_keys, or neither")
    if image_keys is None or text_keys is None:
        if len(images) != len(texts):
            raise ValueError(f"{len(images)} images and {len(texts)} texts need keys that say which belong together")
        start = Ring.of(len(images), images.device, group).start
        own = torch.arange(start, start + len(images), device=images.device)
        return own[:, None], own
    if image_keys.ndim != 2 or len(image_keys) != len(images) or text_keys.shape != texts.shape[:1]:
        raise ValueError(
            f"keys of {len(images)} images and {len(texts)} texts must be int[{len(images)}, k] and int[{len(texts)}],"
            f" not {[*image_keys.shape]} and {[*text_keys.shape]}"
        )
    return image_keys, text_keys


def _positives(image_keys: torch.Tensor, text_keys: torch.Tensor) -> torch.Tensor:
    """Which texts have one of an image's keys, bool[N, M]; by bisection, since an image may have hundreds."""
    ordered = text_keys.sort().values  # [M]
    # position of each key in `ordered`; equal texts share the first position
    place = torch.searchsorted(ordered, image_keys).clamp_(max=len(ordered) - 1)  # [N, K]
    matches = torch.zeros(len(image_keys), len(ordered), dtype=torch.uint8, device=text_keys.device)  # [N, M]
    matches.scatter_reduce_(1, place, (ordered[place] == image_keys).to(torch.uint8), "amax")
    return matches[:, torch.searchsorted(ordered, text_keys)].bool()


def _chunks(images: torch.Tensor, texts: torch.Tensor, chunk_size: int | None) -> Iterator[slice]:
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size={chunk_size}: it must be at least 1, or None for what fits")
    step = chunk_size or max(1, MOST_LOGITS // len(texts))
    return (slice(start, start + step) for start in range(0, len(images), step))


def widen(values: torch.Tensor) -> torch.Tensor:
    """Convert to float32 at least, since half precision loses a sum over a large batch."""
    return values if values.dtype == torch.float64 else values.float()


class _Sigmoid(torch.autograd.Function):
    """One round of the ring: texts are passed on with their gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        image_embeds: torch.Tensor,
        text_embeds: torch.Tensor,
        logit_scale: torch.Tensor,
        logit_bias: torch.Tensor,
        image_keys: torch.Tensor,
        text_keys: torch.Tensor,
        chunk_size: int | None,
        group: ProcessGroup | None,
    ) -> torch.Tensor:
        ring = Ring.of(len(text_embeds), text_embeds.device, group)
        images, texts = widen(image_embeds), widen(text_embeds)
        t, b = widen(logit_scale).exp(), widen(logit_bias)
        loss, grad_t, grad_b = images.new_zeros(()), torch.zeros_like(t), torch.zeros_like(b)
        grad_images, grad_texts = torch.zeros_like(images), torch.zeros_like(texts)
        keys, train = text_keys, any(ctx.needs_input_grad)
        with torch.autocast(images.device.type, enabled=False):
            for hop in range(ring.size):
                for rows in _chunks(images, texts, chunk_size):
                    similarity = images[rows] @ texts.T  # [chunk, M]
                    sign = _positives(image_keys[rows], keys).to(similarity.dtype).mul_(2).sub_(1)  # [chunk, M]
                    margin = (similarity * t).add_(b).mul_(sign)  # [chunk, M]
                    loss -= logsigmoid(margin).sum()
                    if train:
                        gradient = margin.neg_().sigmoid_().mul_(sign).neg_()
                        grad_b += gradient.sum()
                        grad_t += similarity.mul_(gradient).sum()
                        grad_images[rows].addmm_(gradient, texts)
                        grad_texts.addmm_(gradient.T, images[rows])
                if hop < ring.size - 1:
                    texts, keys, grad_texts = ring.pass_on([texts, keys, grad_texts], hop + 1)
            (grad_texts,) = ring.pass_on([grad_texts], ring.size)
        share = _share(len(images), image_embeds.device, group)
        if train:
            # t' = log t
            ctx.types = [x.dtype for x in (image_embeds, text_embeds, logit_scale, logit_bias)]
            ctx.save_for_backward(
                grad_images * (t * share), grad_texts * (t * share), grad_t * t * share, grad_b * share
            )
        return loss * share

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weight: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # pyright: ignore
        gradients = [(saved * weight).to(dtype) for saved, dtype in zip(ctx.saved_tensors, ctx.types)]
        return (*gradients, None, None, None, None)


class _Softmax(torch.autograd.Function):
    """Two rounds of the ring: texts are passed on with their normalisers, then with their gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        image_embeds: torch.Tensor,
        text_embeds: torch.Tensor,
        logit_scale: torch.Tensor,
        image_keys: torch.Tensor,
        text_keys: torch.Tensor,
        chunk_size: int | None,
        group: ProcessGroup | None,
    ) -> torch.Tensor:
        ring = Ring.of(len(text_embeds), text_embeds.device, group)
        images, texts, t = widen(image_embeds), widen(text_embeds), widen(logit_scale).exp()
        # log-normaliser, sum and number of the true logits: [N, 3] and [M, 3]
        by_image, by_text = (_empty_statistics(embeds) for embeds in (images, texts))
        keys = text_keys
        with torch.autocast(images.device.type, enabled=False):
            for hop in range(ring.size):
                for rows in _chunks(images, texts, chunk_size):
                    logits, true = images[rows] @ texts.T * t, _positives(image_keys[rows], keys)
                    by_image[rows] = _add_statistics(by_image[rows], logits, true)
                    by_text = _add_statistics(by_text, logits.T, true.T)
                texts, keys, by_text = ring.pass_on([texts, keys, by_text], hop + 1)
        ctx.chunk_size, ctx.group, ctx.types = chunk_size, group, (image_embeds.dtype, text_embeds.dtype)
        ctx.shares = [_share(len(rows), rows.device, group) / 2 for rows in (images, texts)]
        ctx.save_for_backward(image_embeds, text_embeds, logit_scale, image_keys, text_keys, by_image, by_text)
        return _cross_entropy(by_image) * ctx.shares[0] + _cross_entropy(by_text) * ctx.shares[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weight: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # pyright: ignore
        image_embeds, text_embeds, logit_scale, image_keys, keys, by_image, by_text = ctx.saved_tensors
        ring = Ring.of(len(text_embeds), text_embeds.device, ctx.group)
        images, texts, t = widen(image_embeds), widen(text_embeds), widen(logit_scale).exp()
        grad_images, grad_texts, grad_t = torch.zeros_like(images), torch.zeros_like(texts), torch.zeros_like(t)
        with torch.autocast(images.device.type, enabled=False):
            for hop in range(ring.size):
                for rows in _chunks(images, texts, ctx.chunk_size):
                    similarity, true = images[rows] @ texts.T, _positives(image_keys[rows], keys)
                    gradient = _logit_gradient(similarity * t, true, by_image[rows]) * ctx.shares[0]
                    gradient += _logit_gradient((similarity * t).T, true.T, by_text).T * ctx.shares[1]
                    grad_t += similarity.mul_(gradient).sum()
                    grad_images[rows].addmm_(gradient, texts)
                    grad_texts.addmm_(gradient.T, images[rows])
                if hop < ring.size - 1:
                    texts, keys, by_text, grad_texts = ring.pass_on([texts, keys, by_text, grad_texts], hop + 1)
            (grad_texts,) = ring.pass_on([grad_texts], ring.size)
        factor = t * weight
        gradients = [(x * factor).to(dtype) for x, dtype in zip((grad_images, grad_texts), ctx.types)]
        return (*gradients, (grad_t * factor).to(logit_scale.dtype), None, None, None, None)


def _share(rows: int, device: torch.device, group: ProcessGroup | None) -> float:
    """The factor of a sum over this process's rows that makes the mean over processes the mean over all rows."""
    ring = Ring.of(rows, device, group)
    return ring.size / sum(ring.rows)


def _empty_statistics(embeds: torch.Tensor) -> torch.Tensor:
    """Statistics of rows without logits, float[N, 3]: log-normaliser -inf, sum 0, number 0."""
    return embeds.new_tensor([-math.inf, 0.0, 0.0]).repeat(len(embeds), 1)


def _add_statistics(statistics: torch.Tensor, logits: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Add the logits of another block, float[N, M], to the statistics, float[N, 3]."""
    total = torch.logaddexp(statistics[:, 0], logits.logsumexp(1))
    return torch.stack([total, statistics[:, 1] + (logits * true).sum(1), statistics[:, 2] + true.sum(1)], 1)


def _cross_entropy(statistics: torch.Tensor) -> torch.Tensor:
    """Sum over rows of the log-normaliser minus the mean of the true logits."""
    total, true, number = statistics.unbind(1)
    return (total - true / number.clamp(min=1)).sum()


def _logit_gradient(logits: torch.Tensor, true: torch.Tensor, statistics: torch.Tensor) -> torch.Tensor:
    """Gradient of `_cross_entropy` with respect to the logits of a block, float[N, M]."""
    total, _, number = statistics.unbind(1)
    return (logits - total[:, None]).exp() - true / number.clamp(min=1)[:, None]
