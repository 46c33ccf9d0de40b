"""`similarity`: cosine similarity of image and captions by a SigLIP; `best_share` keeps the best ones."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from openpali.eval.answering.load_model import warn_slow
from openpali.eval.image_encoders.embedding import embed_images, embed_texts
from openpali.modeling.auto import load_processor
from openpali.modeling.checkpoints import load_any
from openpali.modeling.dtypes import CHOICES, requested_dtype
from openpali.scripts.web.running.samples import KEEP, Verdict, WebSample

REDUCE: dict[str, Callable[[list[float]], float]] = {
    "best": max,
    "worst": min,
    "mean": lambda values: sum(values) / len(values),
}


@functools.cache
def load(name: str, device: str, dtype: str) -> tuple[Any, Any]:
    """A model and its processor, loaded once in each process."""
    loaded: Any = load_any(name, dtype=requested_dtype(dtype))
    processor = load_processor(name)
    if dtype == "auto":
        warn_slow(name, loaded, device)
    return loaded.to(device).eval(), processor


@dataclass(frozen=True)
class Similarity:
    """Notes `score` in its table, and `score_language`, that of the caption with this score.

    A GPU is used where the step has one (`gpus: 1`, or a share of one).

    Attributes:
        model: folder or Hub name of a SigLIP.
        languages: of the captions to score; all when empty.
        reduce: score of a sample with several captions in its language: best, worst or mean.
        dtype: of the weights; auto is the checkpoint's own.
    """

    model: str = ""
    languages: tuple[str, ...] = ()
    reduce: Literal["best", "worst", "mean"] = "best"
    dtype: str = "auto"

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("model: give the folder or Hub name of a SigLIP")
        if self.reduce not in REDUCE or self.dtype not in CHOICES:
            raise ValueError(f"reduce is one of {', '.join(REDUCE)}, dtype one of {', '.join(CHOICES)}")

    def __call__(self, batch: list[WebSample]) -> list[Verdict]:
        """The score of each sample; a sample without a caption to score goes."""
        pairs = [self.captions(sample.record.get("captions", {})) for sample in batch]
        texts = [text for own in pairs for _, text in own]
        verdicts = [KEEP if own else Verdict(drop="no caption to score", values=_values(0.0, "")) for own in pairs]
        if texts:
            scored = self.similarities([sample for sample, own in zip(batch, pairs) if own], texts, pairs)
            for place, own in enumerate(pairs):
                if own:
                    verdicts[place] = self.verdict([language for language, _ in own], next(scored))
        return verdicts

    def captions(self, captions: dict[str, Any]) -> list[tuple[str, str]]:
        """Language and text of the captions to score."""
        wanted = {key: texts for key, texts in captions.items() if not self.languages or key in self.languages}
        return [
            (key, text) for key, texts in wanted.items() for text in ([texts] if isinstance(texts, str) else texts)
        ]

    def similarities(self, samples: list[WebSample], texts: list[str], pairs: list[list[tuple[str, str]]]) -> Any:
        """An iterator over the similarities of each sample's captions."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model, processor = load(self.model, device, self.dtype)
        images = embed_images(model, processor.image_processor, [sample.image for sample in samples], len(samples))
        embedded = embed_texts(model, processor.tokenizer, texts, batch_size=len(texts))
        pieces = embedded.float().split([len(own) for own in pairs if own])
        return ((piece @ image).tolist() for image, piece in zip(images.float(), pieces))

    def verdict(self, languages: list[str], scores: list[float]) -> Verdict:
        """The score of the language whose captions fit best."""
        by_language = {key: [s for s, own in zip(scores, languages) if own == key] for key in dict.fromkeys(languages)}
        language, best = max(by_language.items(), key=lambda item: REDUCE[self.reduce](item[1]))
        return Verdict(values=_values(REDUCE[self.reduce](best), language))


def _values(score: float, language: str) -> dict[str, float | int | str]:
    return {"score": float(score), "score_language": language}
