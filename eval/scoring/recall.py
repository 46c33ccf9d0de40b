"""Image-text retrieval: recall at k in both directions, for one set or language by language.

The protocol is that of Crossmodal-3600 (2205.12522) as SigLIP uses it (2303.15343): a text finds its own image
among the first k, an image finds any of its texts among the first k; languages are scored separately and averaged.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import torch

KS = (1, 5, 10)
DIRECTIONS = ("image_to_text", "text_to_image")
DIRECTION_NAMES = {"image_to_text": "image-to-text", "text_to_image": "text-to-image"}
LARGEST_BLOCK = 1 << 22  # similarities at a time, 16 MB in float32


@dataclass(frozen=True)
class LanguageRecall:
    """Retrieval among the images and texts of one language.

    Attributes:
        recalls: as `recall_at_k` gives them.
        chance: recalls of random embeddings, under the same keys.
        ceiling: highest possible recalls where images share texts word for word: only a text's own image counts, and
            no model can tell which one that is. 1 where the texts are not given.
        images: number of images with a text in this language; others do not count.
        texts: number of texts.
    """

    recalls: dict[str, float]
    chance: dict[str, float]
    ceiling: dict[str, float]
    images: int
    texts: int


@dataclass(frozen=True)
class RetrievalTable:
    """Recalls of every language, and their unweighted means over the languages.

    Attributes:
        languages: by language, in the order in which the languages first occur.
        mean: recalls averaged over the languages.
        chance: likewise, of random embeddings.
        ceiling: likewise, highest possible recalls.
        ks: the ranks that count.
    """

    languages: dict[str, LanguageRecall]
    mean: dict[str, float]
    chance: dict[str, float]
    ceiling: dict[str, float]
    ks: tuple[int, ...] = KS

    def as_dict(self) -> dict[str, Any]:
        """The table as JSON values."""
        rows = {name: vars(row) for name, row in self.languages.items()}
        return {"mean": self.mean, "chance": self.chance, "ceiling": self.ceiling, "languages": rows}


def recall_key(direction: str, k: int) -> str:
    """Name of a recall: `image_to_text_recall_at_1`."""
    return f"{direction}_recall_at_{k}"


def recall_at_k(
    image_embeds: torch.Tensor, text_embeds: torch.Tensor, text_image: torch.Tensor, ks: Sequence[int] = KS
) -> dict[str, float]:
    """Recalls in both directions.

    Args:
        image_embeds: float[n, D], normalised.
        text_embeds: float[m, D], normalised.
        text_image: int[m], the image of each text. An image without texts is a candidate, but no query.
        ks: ranks that count.

    Returns:
        `image_to_text_recall_at_1`, `text_to_image_recall_at_1`, ... in [0, 1]; 1 where k is at least the number of
        candidates.

    Raises:
        ValueError: shapes or indices do not fit together, or an embedding is not finite.
    """
    image_ranks, text_ranks = match_ranks(image_embeds, text_embeds, text_image)
    queries = torch.isin(torch.arange(len(image_embeds)), text_image.cpu())
    ranks = {"image_to_text": image_ranks[queries], "text_to_image": text_ranks}
    return {recall_key(name, k): float((ranks[name] < k).double().mean()) for name in DIRECTIONS for k in ks}


def match_ranks(
    image_embeds: torch.Tensor, text_embeds: torch.Tensor, text_image: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """0-based rank of the first match, for every image and for every text.

    Ties are broken by index. So the result is deterministic, and embeddings that are all equal score as chance does.

    Returns:
        int[n] of the images, m for those without texts; int[m] of the texts.
    """
    check(image_embeds, text_embeds, text_image)
    text_image = text_image.to(image_embeds.device)
    images = torch.arange(len(image_embeds), device=image_embeds.device)
    image_ranks = [
        first_match_rank(scores, images[part, None] == text_image[None])
        for part, scores in similarity_blocks(image_embeds, text_embeds)
    ]
    text_ranks = [
        first_match_rank(scores, text_image[part, None] == images[None])
        for part, scores in similarity_blocks(text_embeds, image_embeds)
    ]
    return torch.cat(image_ranks).cpu(), torch.cat(text_ranks).cpu()


def first_match_rank(scores: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Number of candidates before the best match: int[q] of float[q, c] and bool[q, c]; c where there is no match."""
    own, where = scores.masked_fill(~right, -torch.inf).max(dim=1, keepdim=True)
    # of equal matches `max` may return any
    place = torch.arange(scores.shape[1], device=scores.device)
    where = place.expand_as(scores).masked_fill(~(right & (scores == own)), scores.shape[1]).amin(1, keepdim=True)
    before = (scores > own) | ((scores == own) & (place < where))
    return before.sum(dim=1)


def nearest(queries: torch.Tensor, candidates: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k candidates with the largest inner products, best first.

    Args:
        queries: float[q, D].
        candidates: float[c, D].
        k: how many; at most c are given.

    Returns:
        int[q, k] and their scores float[q, k]; lower indices first among equals.
    """
    found = [scores.sort(dim=1, descending=True, stable=True) for _, scores in similarity_blocks(queries, candidates)]
    return torch.cat([one.indices[:, :k] for one in found]), torch.cat([one.values[:, :k] for one in found])


def similarity_blocks(queries: torch.Tensor, candidates: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Rows of the similarity matrix, in blocks of up to `LARGEST_BLOCK`; equal candidates have equal scores."""
    # a matrix product may sum equal columns in different orders, and their last bits would break ties
    distinct, place = torch.unique(candidates, dim=0, return_inverse=True)
    rows = max(1, LARGEST_BLOCK // max(len(candidates), 1))
    for start in range(0, len(queries), rows):
        part = slice(start, start + rows)
        yield part, (queries[part] @ distinct.T)[:, place]


def check(image_embeds: torch.Tensor, text_embeds: torch.Tensor, text_image: torch.Tensor) -> None:
    """Raise ValueError for shapes, indices or values that cannot be scored."""
    n, m = len(image_embeds), len(text_embeds)
    shapes = [list(one.shape) for one in (image_embeds, text_embeds, text_image)]
    if image_embeds.ndim != 2 or text_embeds.shape != (m, image_embeds.shape[1]) or text_image.shape != (m,):
        raise ValueError(f"expected float[n, D], float[m, D] and int[m], not {shapes}")
    if not n or not m:
        raise ValueError(f"there is nothing to retrieve: {n} images and {m} texts")
    if not 0 <= int(text_image.min()) <= int(text_image.max()) < n:
        raise ValueError(f"text_image holds indices of the {n} images, from 0 to {n - 1}")
    # no score is larger than NaN, so a broken model would have perfect recall
    for name, embeds in (("image", image_embeds), ("text", text_embeds)):
        if not torch.isfinite(embeds).all():
            raise ValueError(f"{name} embeddings hold NaN or infinity: the model or its precision is broken")


def chance_at_k(text_image: torch.Tensor, ks: Sequence[int] = KS, images: int | None = None) -> dict[str, float]:
    """Expected recalls of random orders.

    Args:
        text_image: int[m], the image of each text.
        ks: ranks that count.
        images: number of images, with or without texts; of those with texts when None.
    """
    owned = torch.unique(text_image, return_counts=True)[1].tolist()
    texts, images = len(text_image), images or len(owned)
    result = {}
    for k in ks:
        # one minus the probability that the first k are all other images' texts
        misses = [comb(texts - own, min(k, texts)) / comb(texts, min(k, texts)) for own in owned]
        result[recall_key("image_to_text", k)] = 1 - sum(misses) / len(misses)
        result[recall_key("text_to_image", k)] = min(k / images, 1.0)
    return {recall_key(name, k): result[recall_key(name, k)] for name in DIRECTIONS for k in ks}


def retrieval_per_language(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    text_image: torch.Tensor,
    text_language: Sequence[str],
    ks: Sequence[int] = KS,
    texts: Sequence[str] | None = None,
) -> RetrievalTable:
    """Recalls of every language, among its texts and their images, and the means.

    Args:
        image_embeds: float[n, D], normalised.
        text_embeds: float[m, D], normalised.
        text_image: int[m], the image of each text.
        text_language: m languages.
        ks: ranks that count.
        texts: the m texts, for the ceiling that shared texts set.

    Raises:
        ValueError: as `recall_at_k`, or there are more or fewer languages than texts.
    """
    check(image_embeds, text_embeds, text_image)
    if len(text_language) != len(text_embeds):
        raise ValueError(f"{len(text_language)} languages for {len(text_embeds)} texts")
    rows, words = {}, list(texts or ())
    for language in dict.fromkeys(text_language):
        own = torch.tensor([i for i, name in enumerate(text_language) if name == language])
        images, place = torch.unique(text_image[own], return_inverse=True)
        found = recall_at_k(image_embeds[images], text_embeds[own], place, ks)
        own_texts = [words[i] for i in own.tolist()] if words else [str(i) for i in own.tolist()]
        chance, ceiling = chance_at_k(place, ks), ceiling_at_k(own_texts, place.tolist(), ks)
        rows[language] = LanguageRecall(found, chance, ceiling, len(images), len(own))
    return RetrievalTable(
        rows,
        mean_of([row.recalls for row in rows.values()]),
        mean_of([row.chance for row in rows.values()]),
        mean_of([row.ceiling for row in rows.values()]),
        tuple(ks),
    )


def ceiling_at_k(texts: Sequence[str], images: Sequence[int], ks: Sequence[int] = KS) -> dict[str, float]:
    """Highest possible recalls: every image with the query's text is a candidate of equal score.

    Args:
        texts: m texts.
        images: m indices, the image of each.
        ks: ranks that count.
    """
    owners: dict[str, set[int]] = {}
    for text, image in zip(texts, images, strict=True):
        owners.setdefault(text, set()).add(image)
    alike = [len(owners[text]) for text in texts]
    # an image is best retrieved by the text that it shares with the fewest images
    least = dict.fromkeys(images, 1 << 60)
    for image, count in zip(images, alike):
        least[image] = min(least[image], count)
    counts = {"image_to_text": list(least.values()), "text_to_image": alike}
    return {
        recall_key(name, k): sum(min(k / count, 1.0) for count in counts[name]) / len(counts[name])
        for name in DIRECTIONS
        for k in ks
    }


def mean_of(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means by key."""
    return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
