"""Zero-shot classification by a captioner: the class whose prompts its decoder finds most probable on the image.

Names and prompt templates are those of `zero_shot.py`. A prompt's score is the sum of the log probabilities of its
tokens, the end included, without normalisation by length (as in big_vision); that of a class is the logarithm of the
mean probability of its prompts.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from PIL import Image
from tqdm import tqdm

from openpali.eval.image_encoders.embedding import batches, eval_mode, warn_truncated
from openpali.eval.image_encoders.models import Encoder
from openpali.eval.image_encoders.zero_shot import (
    KS,
    Candidates,
    Names,
    ZeroShotTable,
    candidates_per_language,
    table_of,
)
from openpali.modeling.captioner.caption_tokens import CaptionTokens
from openpali.modeling.captioner.modeling_captioner import Captioner


def zero_shot_by_captions(
    encoder: Encoder,
    images: Iterable[Image.Image],
    labels: torch.Tensor,
    classes: Mapping[str, Sequence[Names | None]],
    templates: Mapping[str, Sequence[str]] | None = None,
    text_length: int | None = None,
    batch_size: int = 64,
    *,
    progress: bool = False,
) -> ZeroShotTable:
    """Accuracies with the class names of several languages.

    Args:
        encoder: a captioner.
        images: read batch by batch, once.
        labels: int[n], index of each image's class.
        classes: names of all classes by language, see `zero_shot_per_language`.
        templates: by language; those of `templates_of` where they are left out.
        text_length: tokens of a text; all of the decoder's positions when None.
        batch_size: images at a time.
        progress: show a bar.

    Raises:
        ValueError: no language has names for the images' classes, or the decoder has fewer positions.
    """
    model = encoder.model
    assert isinstance(model, Captioner)
    tokens = CaptionTokens(encoder.tokenizer, model.config.decoder_config, text_length)
    groups = candidates_per_language(labels, classes, templates)
    texts = [encode(group, tokens, model.config.caption_prompt) for group in groups]
    warn_long(groups, tokens, model.config.caption_prompt)
    found: list[list[torch.Tensor]] = [[] for _ in groups]
    with eval_mode(model):
        for batch in tqdm(batches(images, batch_size), desc="zero-shot", unit="batch", disable=not progress):
            inputs = encoder.image_processor(batch, return_tensors="pt")
            seen = model.image_tokens(inputs["pixel_values"].to(model.device, dtype=model.dtype))
            for scores, group, (ids, weights) in zip(found, groups, texts):
                each = model.decoder.score(seen, ids.to(model.device), weights.to(model.device)).float().cpu()
                scores.append(class_scores(each, [len(prompts) for prompts in group.prompts]))
    rows = {}
    for scores, group in zip(found, groups):
        counted = group.labels >= 0
        rows[group.language] = accuracy(torch.cat(scores)[counted], group.labels[counted])
    return table_of(groups, rows)


def encode(group: Candidates, tokens: CaptionTokens, prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels int[N, L] and their weights of all prompts of a language."""
    texts = [text for prompts in group.prompts for text in prompts]
    return tokens([prompt.format(language=group.language)] * len(texts), texts)


def warn_long(groups: Sequence[Candidates], tokens: CaptionTokens, prompt: str) -> None:
    """One warning for all prompts that are cut."""
    pairs = {(prompt.format(language=g.language), text): None for g in groups for own in g.prompts for text in own}
    cut = [text for given, text in pairs if tokens.length(given, text) > tokens.text_length]
    warn_truncated(cut, len(pairs), tokens.text_length)


def class_scores(scores: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """float[n, C], the logarithm of the mean probability of each class's prompts, from their log p float[n, N]."""
    parts = scores.split(list(sizes), dim=1)
    return torch.stack([part.logsumexp(1) - math.log(part.shape[1]) for part in parts], dim=1)


def accuracy(scores: torch.Tensor, labels: torch.Tensor, ks: Sequence[int] = KS) -> dict[str, float]:
    """`top_1` and `top_5` of float[n, C] and int[n]; of equal scores the first class wins."""
    true = scores.gather(1, labels[:, None])
    before = torch.arange(scores.shape[1]) < labels[:, None]
    ranks = ((scores > true) | (scores == true) & before).sum(1)
    return {f"top_{k}": float((ranks < k).double().mean()) for k in ks}
