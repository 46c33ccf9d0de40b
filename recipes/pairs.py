"""Image-text pairs for the contrastive stage: task, batches, and retrieval scores."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.nn.functional import normalize
from transformers import SiglipModel, SiglipProcessor

from openpali.data.example import Example
from openpali.recipes.config_file import ConfigError

TEXTS = ("captions", "names")


@dataclass(frozen=True)
class Pairs:
    """A picture and one text that is true of it, the other true texts beside it.

    Attributes:
        languages: of the texts, one drawn for each example among those that the record has.
        texts: what to draw from: "captions" of the whole scene, "names" of its objects.
        name: of the task.
    """

    languages: tuple[str, ...] = ("en",)
    texts: tuple[str, ...] = TEXTS
    name: str = "pairs"
    metric: str = ""
    metric_key: str = ""
    max_new_tokens: int = 0

    def __post_init__(self) -> None:
        if not set(self.texts) <= set(TEXTS) or not self.texts:
            raise ConfigError(f"texts are some of {', '.join(TEXTS)}, not {list(self.texts)}")

    def example(self, record: dict[str, Any], rng: random.Random) -> Example | None:
        """The text is the suffix; `meta["true"]` are all texts that are true of the picture."""
        known = true_texts(record, self.languages)
        kinds = [kind for kind in self.texts if any(known[kind].values())]
        if not kinds:
            return None
        choices = known[rng.choice(kinds)]
        text = rng.choice(choices[rng.choice([language for language in choices if choices[language]])])
        everything = sorted({t for kind in known.values() for texts in kind.values() for t in texts})
        names = [name for texts in list(known["names"].values())[:1] for name in texts]
        images = tuple(record["images"] if "images" in record else [record["image"]])[:1]
        return Example(
            record["id"], self.name, images, "", text, meta={"true": everything, "names": sorted(set(names))}
        )

    def prediction(self, text: str, example: Example) -> str:
        """Pairs are not generated."""
        return text

    def reference(self, example: Example) -> str:
        """Pairs are not generated."""
        return example.suffix


def true_texts(record: dict[str, Any], languages: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """Captions and object names of a record by language; a JSONL record's suffix is its caption."""
    captions = record.get("captions") or {languages[0]: record.get("suffix", "")}
    found: dict[str, dict[str, list[str]]] = {"captions": {}, "names": {}}
    for language in languages:
        caption = captions.get(language) or []
        found["captions"][language] = [caption] if isinstance(caption, str) else list(caption)
        found["names"][language] = [item["names"][language] for item in record.get("objects", ())]
    return found


class PairCollator:
    """Pairs to the inputs of `SiglipModel`, and which text of the batch is true of which picture.

    With few concepts a batch holds the same text several times, and a caption of one picture can name an object
    of another. Calling those pairs negative would teach the model to tell apart what is alike. So every text of
    the batch that is among a picture's true texts is a positive of it.
    """

    def __init__(self, processor: SiglipProcessor, text_length: int):
        self.processor, self.text_length = processor, text_length

    def __call__(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """`pixel_values`: float[n, 3, H, W], `input_ids`: int[n, text_length], `positives`: bool[n, n]."""
        texts = [example.suffix for example in examples]
        true = [{example.suffix, *example.meta["true"]} for example in examples]
        positives = torch.tensor([[text in own for text in texts] for own in true])
        pixel_values = self.pixels(examples)
        return {"pixel_values": pixel_values, "input_ids": self.tokens(texts), "positives": positives}

    def pixels(self, examples: Sequence[Example]) -> torch.Tensor:
        """float[n, 3, H, W] in [-1, 1]."""
        images = [example.images[0] for example in examples]
        return self.processor.image_processor(images, return_tensors="pt")["pixel_values"]

    def tokens(self, texts: Sequence[str]) -> torch.Tensor:
        """int[n, text_length]; SigLIP attends to padding too, so every text has the same length."""
        options: dict[str, Any] = {"padding": "max_length", "max_length": self.text_length, "truncation": True}
        return self.processor.tokenizer(list(texts), return_tensors="pt", **options)["input_ids"]


@torch.no_grad()
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
    images = embed(model, examples, collator, batch_size)
    texts = [example.suffix for example in examples]
    true = [{example.suffix, *example.meta["true"]} for example in examples]
    similarity = images @ embed(model, texts, collator, batch_size).T
    to_text = [texts[j] in own for j, own in zip(similarity.argmax(1).tolist(), true)]
    to_image = [text in true[i] for i, text in zip(similarity.argmax(0).tolist(), texts)]
    scores = {"image_to_text": mean(to_text), "text_to_image": mean(to_image)}
    scores["recall_at_1"] = mean(list(scores.values()))
    names = sorted({name for example in examples for name in example.meta["names"]})
    if names:
        nearest = (images @ embed(model, names, collator, batch_size).T).argmax(1).tolist()
        scores["naming_accuracy"] = mean([names[j] in e.meta["names"] for j, e in zip(nearest, examples)])
    return scores


def embed(
    model: SiglipModel, items: Sequence[Example] | Sequence[str], collator: PairCollator, batch_size: int
) -> torch.Tensor:
    """float[n, D], normalised embeddings of pictures or of texts."""
    rows = []
    for start in range(0, len(items), batch_size):
        chunk = items[start : start + batch_size]
        texts = [item for item in chunk if isinstance(item, str)]
        if texts:
            features = model.get_text_features(input_ids=collator.tokens(texts).to(model.device))
        else:
            pixels = collator.pixels([item for item in chunk if isinstance(item, Example)])
            features = model.get_image_features(pixel_values=pixels.to(model.device))
        rows.append(normalize(cast(torch.Tensor, features[1]), dim=-1))
    return torch.cat(rows)


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean."""
    return sum(values) / len(values)
