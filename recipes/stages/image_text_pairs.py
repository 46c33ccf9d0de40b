"""Image-text pairs for the contrastive stage: task, batches, and retrieval scores."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from statistics import fmean
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, SiglipProcessor

from openpali.data.example import Example
from openpali.data.files.config import ConfigError
from openpali.eval.image_encoders.embedding import embed_images, embed_texts
from openpali.recipes.flexible.images import SquareImages
from openpali.recipes.stages.task_bases import EncoderTask

KINDS = ("captions", "names", "keywords")
MOST_KEYWORDS = 3


@dataclass(frozen=True)
class Pairs(EncoderTask):
    """A task: an image with one text that describes it, and its other true texts.

    Attributes:
        languages: of the texts; one is drawn for each example among those of the record.
        texts: what to draw from: "captions" of the whole scene, "names" of its objects, "keywords" (one to three of
            the record's, in any order).
        language_weights: relative weights of languages; 1 by default.
        number: of texts drawn for each image, each in another language as long as there are some.
        name: of the task.
    """

    languages: tuple[str, ...] = ("en",)
    texts: tuple[str, ...] = ("captions", "names")
    language_weights: Mapping[str, float] = field(default_factory=dict)
    number: int = 1
    name: str = "pairs"

    def __post_init__(self) -> None:
        if not set(self.texts) <= set(KINDS) or not self.texts:
            raise ConfigError(f"texts are some of {', '.join(KINDS)}, not {list(self.texts)}")
        unknown = sorted(set(self.language_weights) - set(self.languages))
        if unknown or any(weight < 0 for weight in self.language_weights.values()):
            raise ConfigError(
                f"language_weights={dict(self.language_weights)}: give numbers from 0 up for some of the languages"
                f" {', '.join(self.languages)}"
            )

    def example(self, record: dict[str, Any], rng: random.Random) -> Example | None:
        """The text is the suffix, further ones are in `meta["more"]`, and all that describe the image in
        `meta["true"]`."""
        known = true_texts(record, self.languages)
        kinds = [kind for kind in self.texts if any(known[kind].values())]
        if not kinds:
            return None
        drawn: list[tuple[str, str]] = []
        for _ in range(self.number):
            drawn.append(self.text(known, rng.choice(kinds), [language for language, _ in drawn], rng))
        text, *more = [text for _, text in drawn]
        everything = sorted({t for kind in known.values() for texts in kind.values() for t in texts})
        names = [name for texts in list(known["names"].values())[:1] for name in texts]
        images = tuple(record["images"] if "images" in record else [record["image"]])[:1]
        meta = {"true": everything, "names": sorted(set(names)), "more": more}
        return Example(record["id"], self.name, images, "", text, meta=meta)

    def text(
        self, known: dict[str, dict[str, list[str]]], kind: str, used: Sequence[str], rng: random.Random
    ) -> tuple[str, str]:
        """Draw language and text of a kind, preferably in an unused language."""
        there = [language for language, texts in known[kind].items() if texts]
        language = self.language([language for language in there if language not in used] or there, rng)
        texts = known[kind][language]
        return language, keywords(texts, rng) if kind == "keywords" else rng.choice(texts)

    def language(self, known: list[str], rng: random.Random) -> str:
        """Draw one of a record's languages."""
        weights = [self.language_weights.get(language, 1.0) for language in known]
        return rng.choices(known, weights)[0] if self.language_weights and any(weights) else rng.choice(known)


def keywords(words: Sequence[str], rng: random.Random) -> str:
    """A text of one to three keywords in random order."""
    return ", ".join(rng.sample(words, rng.randint(1, min(MOST_KEYWORDS, len(words)))))


def true_texts(record: dict[str, Any], languages: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """Captions, object names and keywords of a record by language; a JSONL record's suffix is its caption."""
    captions = record.get("captions") or {languages[0]: record.get("suffix", "")}
    found: dict[str, dict[str, list[str]]] = {kind: {} for kind in KINDS}
    for language in languages:
        caption = captions.get(language) or []
        found["captions"][language] = [caption] if isinstance(caption, str) else list(caption)
        found["names"][language] = [
            item["names"][language] for item in record.get("objects", ()) if language in item.get("names", ())
        ]
        found["keywords"][language] = list(record.get("keywords", {}).get(language, ()))
    return found


class PairCollator:
    """Collates pairs into inputs of `SiglipForContrastiveLearning`, and keys that match texts with images.

    With few concepts a batch holds the same text several times, and a caption of one image can name an object
    of another; such pairs must not be negatives. So every text of the batch that is among an image's true texts
    is a positive of it, on all processes.

    Args:
        processor: of the model.
        text_length: tokens of every text, padding included, which SigLIP attends to.
        shared_texts: False for the paper's loss, in which an image's only positive is its own text.
        images: makes inputs of the images of examples; squares when None.
    """

    def __init__(
        self,
        processor: SiglipProcessor,
        text_length: int,
        shared_texts: bool = True,
        images: Callable[[Sequence[Example]], dict[str, Any]] | None = None,
    ):
        self.processor, self.text_length, self.shared_texts = processor, text_length, shared_texts
        self.images = images if images is not None else SquareImages(processor.image_processor)
        self.by_step = getattr(self.images, "by_step", False)

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        """`pixel_values`: float[n, 3, H, W], or what `images` makes, `input_ids`: int[m, text_length], `image_keys`:
        int[n, k] and `text_keys`: int[m]; m is n times the texts of an image."""
        texts = [[example.suffix, *example.meta.get("more", ())] for example in examples]
        flat = [text for group in texts for text in group]
        options: dict[str, Any] = {"padding": "max_length", "max_length": self.text_length, "truncation": True}
        if self.shared_texts:
            true = [sorted({*group, *example.meta["true"]}) for group, example in zip(texts, examples)]
            image_keys, text_keys = [[text_key(text) for text in group] for group in true], [text_key(t) for t in flat]
        else:
            image_keys = [[text_key(example.id)] for example in examples]
            text_keys = [keys[0] for keys, group in zip(image_keys, texts) for _ in group]
        return self.images(examples) | {
            "input_ids": self.processor.tokenizer(flat, return_tensors="pt", **options)["input_ids"],
            "image_keys": padded(image_keys),
            "text_keys": torch.tensor(text_keys),
        }


def padded(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """int[n, k], rows filled up with -1."""
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=-1)


@lru_cache(maxsize=2**17)
def text_key(text: str) -> int:
    """A 63-bit hash of a text, the same on every machine."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) >> 1


def retrieval_scores(
    model: PreTrainedModel, collator: PairCollator, examples: Sequence[Example], batch_size: int = 64
) -> dict[str, float]:
    """Recall at 1 between images and texts.

    Args:
        model: with two towers, in evaluation mode.
        collator: of the run.
        examples: validation pairs.
        batch_size: images or texts at a time.

    Returns:
        `image_to_text` and `text_to_image`: recall at 1 among the pairs, where any true text counts; their mean as
        `recall_at_1`; and, where objects have names, `naming_accuracy`: share of images whose nearest name of all
        is one of the image's.
    """
    tokenizer = collator.processor.tokenizer
    texts = [example.suffix for example in examples]
    true = [{example.suffix, *example.meta["true"]} for example in examples]
    first = (example.images[0] for example in examples)
    images = embed_images(model, collator.processor.image_processor, first, batch_size)
    similarity = images @ embed_texts(model, tokenizer, texts, collator.text_length, batch_size).T
    to_text = [texts[j] in truths for j, truths in zip(similarity.argmax(1).tolist(), true)]
    to_image = [text in true[i] for i, text in zip(similarity.argmax(0).tolist(), texts)]
    scores = {"image_to_text": fmean(to_text), "text_to_image": fmean(to_image)}
    scores["recall_at_1"] = fmean(list(scores.values()))
    names = sorted({name for example in examples for name in example.meta["names"]})
    if names:
        embeds = embed_texts(model, tokenizer, names, collator.text_length, batch_size)
        nearest = (images @ embeds.T).argmax(1).tolist()
        scores["naming_accuracy"] = fmean([names[j] in e.meta["names"] for j, e in zip(nearest, examples)])
    return scores
