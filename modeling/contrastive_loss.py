"""The sigmoid loss of SigLIP (arXiv 2303.15343), on one device."""

import math

import torch
from torch.nn.functional import logsigmoid

# t' and b, the learnable scale and bias that `SiglipModel` has as `logit_scale` and `logit_bias`:
# the best pair of the paper's ablation
INITIAL_TEMPERATURE = 10.0
INITIAL_LOGIT_BIAS = -10.0


def sigmoid_loss(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    logit_scale: torch.Tensor,
    logit_bias: torch.Tensor,
    positives: torch.Tensor | None = None,
) -> torch.Tensor:
    """Every image-text pair of the batch is a yes-or-no question of its own.

    `-sum(log_sigmoid(z * (exp(t') * image . text + b))) / n`, with z = 1 for pairs that belong together and -1
    for the others; n is the number of images, not of pairs (section 3.1).

    Args:
        image_embeds: float[n, D], L2-normalised.
        text_embeds: float[m, D], L2-normalised; m = n unless `positives` says which belong together.
        logit_scale: float[1], t'.
        logit_bias: float[1], b.
        positives: bool[n, m], True where text and image belong together; the diagonal when left out. Two
            pictures with the same caption would otherwise be taught to be told apart by it.

    Returns:
        float[], the loss in nats per image.
    """
    logits = image_embeds @ text_embeds.T * logit_scale.exp() + logit_bias
    if positives is None:
        positives = torch.eye(logits.shape[0], dtype=torch.bool, device=logits.device)
    return -logsigmoid(torch.where(positives, logits, -logits)).sum() / logits.shape[0]


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
