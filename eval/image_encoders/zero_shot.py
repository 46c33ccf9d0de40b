"""Zero-shot classification: the nearest class by embeddings of its name in several prompt templates.

The embedding of a class is the mean of the normalised embeddings of all its prompts, normalised again (as in CLIP,
2103.00020 section 3.1.4, and in big_vision's code for SigLIP).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.nn.functional import normalize

from openpali.eval.image_encoders.embedding import embed_texts
from openpali.eval.scoring.recall import match_ranks, mean_of

TEMPLATES = Path(__file__).with_name("zero_shot_templates.yaml")
BARE = ("{}",)
KS = (1, 5)

Names = str | Sequence[str]


@dataclass(frozen=True)
class ZeroShotTable:
    """Accuracies of every language, and their unweighted means over the languages.

    Attributes:
        languages: by language `top_1` and `top_5` in [0, 1].
        mean: averaged over the languages.
        chance: likewise, of random predictions.
        classes: number of classes by language.
    """

    languages: dict[str, dict[str, float]]
    mean: dict[str, float]
    chance: dict[str, float]
    classes: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """The table as JSON values."""
        rows = {name: {**row, "classes": self.classes[name]} for name, row in self.languages.items()}
        return {"mean": self.mean, "chance": self.chance, "languages": rows}


def templates_of(language: str) -> tuple[str, ...]:
    """Prompt templates of a language, `{}` in place of the name; only `{}` where there are none."""
    return tuple(read_templates().get(language, BARE))


@cache
def read_templates() -> dict[str, list[str]]:
    """The templates that come with openpali, by language."""
    return yaml.safe_load(TEMPLATES.read_text("utf-8"))


def prompts(names: Names, templates: Sequence[str] = BARE) -> list[str]:
    """Every name in every template, each prompt once.

    Raises:
        ValueError: a template has no place for the name, or there is no name.
    """
    wrong = [template for template in templates if "{}" not in template]
    if wrong or not templates:
        raise ValueError(f"a template holds {{}} in place of the name: {wrong or 'there is none'}")
    synonyms = [names] if isinstance(names, str) else list(names)
    if not synonyms:
        raise ValueError("a class needs a name")
    # not str.format: names may hold braces
    return list(dict.fromkeys(template.replace("{}", name) for name in synonyms for template in templates))


def class_embeddings(
    model: Any,
    tokenizer: Any,
    classes: Sequence[Names],
    templates: Sequence[str] = BARE,
    text_length: int | None = None,
    batch_size: int = 64,
    *,
    progress: bool = False,
) -> torch.Tensor:
    """Embeddings of classes.

    Args:
        model: with a text tower.
        tokenizer: of the model.
        classes: name of each, or several names that mean the same.
        templates: sentences with `{}` in place of the name.
        text_length: as for `embed_texts`.
        batch_size: sentences at a time.
        progress: show a bar.

    Returns:
        float[C, D] of length 1.

    Raises:
        ValueError: there are no classes, a class has no name, or a template no place for it.
    """
    sentences = [prompts(names, templates) for names in classes]
    return mean_embeddings(model, tokenizer, sentences, text_length, batch_size, progress=progress)


def mean_embeddings(
    model: Any,
    tokenizer: Any,
    groups: Sequence[Sequence[str]],
    text_length: int | None = None,
    batch_size: int = 64,
    *,
    progress: bool = False,
) -> torch.Tensor:
    """float[n, D], the normalised mean of the normalised embeddings of every group of sentences."""
    flat = [sentence for group in groups for sentence in group]
    embeds = embed_texts(model, tokenizer, flat, text_length, batch_size, progress=progress)
    means = [part.mean(0) for part in embeds.split([len(group) for group in groups])]
    return normalize(torch.stack(means), dim=-1)


def zero_shot_accuracy(
    image_embeds: torch.Tensor, class_embeds: torch.Tensor, labels: torch.Tensor, ks: Sequence[int] = KS
) -> dict[str, float]:
    """Share of images whose class is the nearest, or among the k nearest.

    Args:
        image_embeds: float[n, D], normalised.
        class_embeds: float[C, D], normalised.
        labels: int[n], index of each image's class.
        ks: ranks that count.

    Returns:
        `top_1`, `top_5` in [0, 1]. Ties are broken by the order of the classes.

    Raises:
        ValueError: shapes or labels do not fit together, or an embedding is not finite.
    """
    # images retrieve their class as texts retrieve their image
    ranks = match_ranks(class_embeds, image_embeds, labels)[1]
    return {f"top_{k}": float((ranks < k).double().mean()) for k in ks}


def zero_shot_per_language(
    model: Any,
    tokenizer: Any,
    image_embeds: torch.Tensor,
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
        model: with two towers.
        tokenizer: of the model.
        image_embeds: float[n, D], normalised.
        labels: int[n], index of each image's class.
        classes: names of all classes by language; a class with None in a language is no candidate there, and its
            images do not count.
        templates: by language; those of `templates_of` where they are left out.
        text_length: as for `embed_texts`.
        batch_size: sentences at a time.
        progress: show a bar.

    Raises:
        ValueError: no language has names for the images' classes.
    """
    groups = candidates_per_language(labels, classes, templates)
    # all languages at once, so that one warning counts all long prompts
    sentences = [prompts for group in groups for prompts in group.prompts]
    embeds = mean_embeddings(model, tokenizer, sentences, text_length, batch_size, progress=progress)
    rows = {}
    for group, own in zip(groups, embeds.split([len(group.prompts) for group in groups])):
        counted = group.labels >= 0
        rows[group.language] = zero_shot_accuracy(image_embeds[counted], own, group.labels[counted])
    return table_of(groups, rows)


@dataclass(frozen=True)
class Candidates:
    """The classes of a language.

    Attributes:
        language: of the names.
        prompts: of each class that has a name in the language.
        labels: int[n], index of each image's class among them, -1 where it has no name there.
    """

    language: str
    prompts: list[list[str]]
    labels: torch.Tensor


def candidates_per_language(
    labels: torch.Tensor,
    classes: Mapping[str, Sequence[Names | None]],
    templates: Mapping[str, Sequence[str]] | None = None,
) -> list[Candidates]:
    """The classes of every language that names some class of the images; arguments as of `zero_shot_per_language`.

    Raises:
        ValueError: there is no such language.
    """
    known = {language: [i for i, own in enumerate(names) if own] for language, names in classes.items()}
    # a language may have names only for classes without images
    present, found = set(labels.tolist()), []
    for language in [language for language, own in known.items() if present & set(own)]:
        chosen = (templates or {}).get(language) or templates_of(language)
        place = torch.full((len(classes[language]),), -1)
        place[known[language]] = torch.arange(len(known[language]))
        named = [prompts(classes[language][i] or (), chosen) for i in known[language]]
        found.append(Candidates(language, named, place[labels]))
    if not found:
        raise ValueError(f"no class of the images has a name in {', '.join(classes) or 'any language'}")
    return found


def table_of(groups: Sequence[Candidates], rows: dict[str, dict[str, float]]) -> ZeroShotTable:
    """The table of accuracies by language."""
    sizes = {group.language: len(group.prompts) for group in groups}
    chances = [{f"top_{k}": min(k / size, 1.0) for k in KS} for size in sizes.values()]
    return ZeroShotTable(rows, mean_of(list(rows.values())), mean_of(chances), sizes)
