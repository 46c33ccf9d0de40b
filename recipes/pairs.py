"""Image-text pairs for the contrastive stage: task, batches, and retrieval scores."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import torch
from transformers import SiglipModel, SiglipProcessor

from openpali.data.example import Example
from openpali.eval.embedding import embed_images, embed_texts
from openpali.recipes.config_file import ConfigError

KINDS = ("captions", "names", "keywords")
MOST_KEYWORDS = 3


@dataclass(frozen=True)
class Pairs:
    """A picture and one text that is true of it, the other true texts beside it.

    Attributes:
        languages: of the texts, one drawn for each example among those that the record has.
        texts: what to draw from: "captions" of the whole scene, "names" of its objects, "keywords" (one to three of
            the record's, in any order).
        language_weights: how often a language is drawn, relative to the others; 1 where it says nothing.
        name: of the task.
    """

    languages: tuple[str, ...] = ("en",)
    texts: tuple[str, ...] = ("captions", "names")
    language_weights: Mapping[str, float] = field(default_factory=dict)
    name: str = "pairs"
    metric: str = ""
    metric_key: str = ""
    max_new_tokens: int = 0

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
        """The text is the suffix; `meta["true"]` are all texts that are true of the picture."""
        known = true_texts(record, self.languages)
        kinds = [kind for kind in self.texts if any(known[kind].values())]
        if not kinds:
            return None
        kind = rng.choice(kinds)
        choices = known[kind]
        texts = choices[self.language([language for language in choices if choices[language]], rng)]
        text = keywords(texts, rng) if kind == "keywords" else rng.choice(texts)
        everything = sorted({t for kind in known.values() for texts in kind.values() for t in texts})
        names = [name for texts in list(known["names"].values())[:1] for name in texts]
        images = tuple(record["images"] if "images" in record else [record["image"]])[:1]
        return Example(
            record["id"], self.name, images, "", text, meta={"true": everything, "names": sorted(set(names))}
        )

    def language(self, known: list[str], rng: random.Random) -> str:
        """One of the languages that a record has."""
        weights = [self.language_weights.get(language, 1.0) for language in known]
        return rng.choices(known, weights)[0] if self.language_weights and any(weights) else rng.choice(known)

    def prediction(self, text: str, example: Example) -> str:
        """Pairs are not generated."""
        return text

    def reference(self, example: Example) -> str:
        """Pairs are not generated."""
        return example.suffix


def keywords(words: Sequence[str], rng: random.Random) -> str:
    """A prompt of a few keywords in any order."""
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
    """Pairs to the inputs of `SiglipForContrastiveLearning`, and keys that say which text is true of which picture.

    With few concepts a batch holds the same text several times, and a caption of one picture can name an object
    of another. Calling those pairs negative would teach the model to tell apart what is alike. So every text of
    the batch that is among a picture's true texts is a positive of it, on whichever process it is.

    Args:
        processor: of the model.
        text_length: tokens of every text; SigLIP attends to padding too.
        shared_texts: False for the paper's loss, in which a picture's only positive is its own text.
    """

    def __init__(self, processor: SiglipProcessor, text_length: int, shared_texts: bool = True):
        self.processor, self.text_length, self.shared_texts = processor, text_length, shared_texts

    def __call__(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """`pixel_values`: float[n, 3, H, W], `input_ids`: int[n, text_length], `image_keys`: int[n, k] and
        `text_keys`: int[n]."""
        images = [example.images[0] for example in examples]
        texts = [example.suffix for example in examples]
        options: dict[str, Any] = {"padding": "max_length", "max_length": self.text_length, "truncation": True}
        batch = {
            "pixel_values": self.processor.image_processor(images, return_tensors="pt")["pixel_values"],
            "input_ids": self.processor.tokenizer(texts, return_tensors="pt", **options)["input_ids"],
        }
        return batch | (text_keys(examples) if self.shared_texts else {})


def text_keys(examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """`image_keys`: int[n, k] of all true texts of each picture, padded with -1, and `text_keys`: int[n]."""
    true = [sorted({example.suffix, *example.meta["true"]}) for example in examples]
    keys = torch.full((len(true), max(map(len, true))), -1)
    for row, texts in zip(keys, true):
        row[: len(texts)] = torch.tensor([text_key(text) for text in texts])
    return {"image_keys": keys, "text_keys": torch.tensor([text_key(example.suffix) for example in examples])}


def text_key(text: str) -> int:
    """A number that only this text has, for practical purposes; the same on every machine."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) >> 1


def retrieval_scores(
    model: SiglipModel, collator: PairCollator, examples: Sequence[Example], batch_size: int = 64
) -> dict[str, float]:
    """How often the nearest neighbour is right.

    Args:
        model: in evaluation mode.
        collator: of the run.
        examples: validation pairs.
        batch_size: pictures or texts at a time.

    Returns:
        `image_to_text` and `text_to_image`: recall at 1 among the pairs, any true text counting; their mean as
        `recall_at_1`; and, where objects have names, `naming_accuracy`: how often the nearest of all the
        examples' names is one of the picture's.
    """
    tokenizer = collator.processor.tokenizer
    texts = [example.suffix for example in examples]
    true = [{example.suffix, *example.meta["true"]} for example in examples]
    pictures = (example.images[0] for example in examples)
    images = embed_images(model, collator.processor.image_processor, pictures, batch_size)
    similarity = images @ embed_texts(model, tokenizer, texts, collator.text_length, batch_size).T
    to_text = [texts[j] in own for j, own in zip(similarity.argmax(1).tolist(), true)]
    to_image = [text in true[i] for i, text in zip(similarity.argmax(0).tolist(), texts)]
    scores = {"image_to_text": mean(to_text), "text_to_image": mean(to_image)}
    scores["recall_at_1"] = mean(list(scores.values()))
    names = sorted({name for example in examples for name in example.meta["names"]})
    if names:
        embeds = embed_texts(model, tokenizer, names, collator.text_length, batch_size)
        nearest = (images @ embeds.T).argmax(1).tolist()
        scores["naming_accuracy"] = mean([names[j] in e.meta["names"] for j, e in zip(nearest, examples)])
    return scores


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean."""
    return sum(values) / len(values)
