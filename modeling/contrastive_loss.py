"""The sigmoid loss of SigLIP (arXiv 2303.15343) and the softmax loss of CLIP, on one device or on a ring of them.

What departs from the usual implementations:

- No process ever holds all texts: they travel from process to process (section 3.3 of the paper).
- Logits never outlive their block, in training either. The sigmoid loss takes the gradients of a block while it is
  there; the softmax loss, which must know all of a row first, computes the block again in backward. Autograd would
  keep every block until then, which is the full matrix after all.
- A block is cut into rows, so that memory is `chunk_size` times the texts of one process.
- An image may have several true texts in the batch, and a text several images, told by keys.
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

# of a block, when nobody says how many: 16 MB in single precision
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
    """Every image-text pair of the global batch is a yes-or-no question of its own.

    `-sum(log_sigmoid(z * (exp(t') * image . text + b))) / n`, with z = 1 for pairs that belong together and -1
    for the others; n is the number of images in the global batch, not of pairs (section 3.1).

    With several processes each gets the share of its own images, so that the mean over processes is the global loss.
    Gradients are those that DDP and FSDP, which average, need for the gradient of the global loss; every process must
    weigh its loss alike.

    Args:
        image_embeds: float[n, D], L2-normalised, of this process.
        text_embeds: float[m, D], L2-normalised; m = n unless keys say which belong together.
        logit_scale: float[1], t'.
        logit_bias: float[1], b.
        image_keys: int[n, k], keys of the texts that are true of each image, padded with -1.
        text_keys: int[m], the key of each text, not negative. Image and text belong together where the image has
            the text's key; without keys, where they stand in the same place. Two images with the same caption would
            otherwise be taught to be told apart by it.
        chunk_size: images whose logits are computed at a time; so many that a block has 2^22 logits when left out.
        group: of the processes whose batches are one; all of them by default. Their batches may differ in size.

    Returns:
        float[], the loss in nats per image.

    Raises:
        ValueError: if shapes do not fit together.
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
    """The loss of CLIP (arXiv 2103.00020): which text of the global batch is the image's, and the other way round.

    Half the cross-entropy over texts, a mean over images, and half that over images, a mean over texts. Where several
    texts are true of an image they share its probability evenly; likewise the images of a text. A text or image
    without any counts with its normaliser alone.

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
    """Set t' = log(temperature) and b, the paper's unless given; at b = -10 a batch's many negatives cost nothing."""
    logit_scale.fill_(math.log(temperature))
    logit_bias.fill_(bias)


def _keys(
    images: torch.Tensor,
    texts: torch.Tensor,
    image_keys: torch.Tensor | None,
    text_keys: torch.Tensor | None,
    group: ProcessGroup | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The keys given, or those of a batch in which every image has its own text."""
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


def _together(image_keys: torch.Tensor, text_keys: torch.Tensor) -> torch.Tensor:
    """bool[n, m]: which texts have one of an image's keys; by bisection, since an image may have hundreds."""
    ordered = text_keys.sort().values
    # where in order a key stands; equal texts share the place of the first of them
    place = torch.searchsorted(ordered, image_keys).clamp_(max=len(ordered) - 1)
    found = torch.zeros(len(image_keys), len(ordered), dtype=torch.uint8, device=text_keys.device)
    found.scatter_reduce_(1, place, (ordered[place] == image_keys).to(torch.uint8), "amax")
    return found[:, torch.searchsorted(ordered, text_keys)].bool()


def _slices(images: torch.Tensor, texts: torch.Tensor, chunk_size: int | None) -> Iterator[slice]:
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size={chunk_size}: it must be at least 1, or None for what fits")
    step = chunk_size or max(1, MOST_LOGITS // len(texts))
    return (slice(start, start + step) for start in range(0, len(images), step))


def wide(values: torch.Tensor) -> torch.Tensor:
    """At least single precision: a sum over a large batch is lost in half of it."""
    return values if values.dtype == torch.float64 else values.float()


class _Sigmoid(torch.autograd.Function):
    """One trip round the ring: texts travel with their gradients."""

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
        images, texts = wide(image_embeds), wide(text_embeds)
        t, b = wide(logit_scale).exp(), wide(logit_bias)
        loss, of_t, of_b = images.new_zeros(()), torch.zeros_like(t), torch.zeros_like(b)
        of_images, of_texts = torch.zeros_like(images), torch.zeros_like(texts)
        keys, train = text_keys, any(ctx.needs_input_grad)
        with torch.autocast(images.device.type, enabled=False):
            for hop in range(ring.size):
                for rows in _slices(images, texts, chunk_size):
                    similarity = images[rows] @ texts.T
                    sign = _together(image_keys[rows], keys).to(similarity.dtype).mul_(2).sub_(1)
                    margin = (similarity * t).add_(b).mul_(sign)
                    loss -= logsigmoid(margin).sum()
                    if train:
                        slope = margin.neg_().sigmoid_().mul_(sign).neg_()
                        of_b += slope.sum()
                        of_t += similarity.mul_(slope).sum()
                        of_images[rows].addmm_(slope, texts)
                        of_texts.addmm_(slope.T, images[rows])
                if hop < ring.size - 1:
                    texts, keys, of_texts = ring.pass_on([texts, keys, of_texts], hop + 1)
            (of_texts,) = ring.pass_on([of_texts], ring.size)
        share = _share(len(images), image_embeds.device, group)
        if train:
            # t' = log t
            ctx.types = [x.dtype for x in (image_embeds, text_embeds, logit_scale, logit_bias)]
            ctx.save_for_backward(of_images * (t * share), of_texts * (t * share), of_t * t * share, of_b * share)
        return loss * share

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weight: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # pyright: ignore
        gradients = [(saved * weight).to(dtype) for saved, dtype in zip(ctx.saved_tensors, ctx.types)]
        return (*gradients, None, None, None, None)


class _Softmax(torch.autograd.Function):
    """Two trips: normalisers of texts travel with them, then their gradients."""

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
        images, texts, t = wide(image_embeds), wide(text_embeds), wide(logit_scale).exp()
        # log-normaliser, sum of the true logits, number of them
        by_image, by_text = (_no_logits(embeds) for embeds in (images, texts))
        keys = text_keys
        with torch.autocast(images.device.type, enabled=False):
            for hop in range(ring.size):
                for rows in _slices(images, texts, chunk_size):
                    logits, true = images[rows] @ texts.T * t, _together(image_keys[rows], keys)
                    by_image[rows] = _with_logits(by_image[rows], logits, true)
                    by_text = _with_logits(by_text, logits.T, true.T)
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
        images, texts, t = wide(image_embeds), wide(text_embeds), wide(logit_scale).exp()
        of_images, of_texts, of_t = torch.zeros_like(images), torch.zeros_like(texts), torch.zeros_like(t)
        with torch.autocast(images.device.type, enabled=False):
            for hop in range(ring.size):
                for rows in _slices(images, texts, ctx.chunk_size):
                    similarity, true = images[rows] @ texts.T, _together(image_keys[rows], keys)
                    slope = _slope(similarity * t, true, by_image[rows]) * ctx.shares[0]
                    slope += _slope((similarity * t).T, true.T, by_text).T * ctx.shares[1]
                    of_t += similarity.mul_(slope).sum()
                    of_images[rows].addmm_(slope, texts)
                    of_texts.addmm_(slope.T, images[rows])
                if hop < ring.size - 1:
                    texts, keys, by_text, of_texts = ring.pass_on([texts, keys, by_text, of_texts], hop + 1)
            (of_texts,) = ring.pass_on([of_texts], ring.size)
        factor = t * weight
        gradients = [(x * factor).to(dtype) for x, dtype in zip((of_images, of_texts), ctx.types)]
        return (*gradients, (of_t * factor).to(logit_scale.dtype), None, None, None, None)


def _share(rows: int, device: torch.device, group: ProcessGroup | None) -> float:
    """What a sum over this process's rows is multiplied by so that the mean over processes is that over all rows."""
    ring = Ring.of(rows, device, group)
    return ring.size / sum(ring.rows)


def _no_logits(embeds: torch.Tensor) -> torch.Tensor:
    """float[n, 3] before any logit is seen: the logarithm of 0, no sum, no number."""
    return embeds.new_tensor([-math.inf, 0.0, 0.0]).repeat(len(embeds), 1)


def _with_logits(seen: torch.Tensor, logits: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """float[n, 3] with the logits of another block."""
    total = torch.logaddexp(seen[:, 0], logits.logsumexp(1))
    return torch.stack([total, seen[:, 1] + (logits * true).sum(1), seen[:, 2] + true.sum(1)], 1)


def _cross_entropy(seen: torch.Tensor) -> torch.Tensor:
    """Sum over rows of the log-normaliser less the mean of the true logits."""
    total, true, number = seen.unbind(1)
    return (total - true / number.clamp(min=1)).sum()


def _slope(logits: torch.Tensor, true: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Derivative of `_cross_entropy` by the logits of a block."""
    total, _, number = seen.unbind(1)
    return (logits - total[:, None]).exp() - true / number.clamp(min=1)[:, None]
