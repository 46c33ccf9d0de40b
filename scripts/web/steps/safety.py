"""Drops unsafe images and captions by the probabilities of classifiers that the user chooses."""

from dataclasses import dataclass, field
from typing import Any

from openpali.data.tasks.parts.captions import captions_in
from openpali.eval.groups.toxicity import label_probabilities
from openpali.modeling.dtypes import requested_dtype
from openpali.scripts.web.labelling.checkpoints import caption_classifier, image_classifier, label_of, unless_offline
from openpali.scripts.web.running.samples import Verdict, WebSample

# more than any classifier has
_EVERY_LABEL = 1_000_000


@dataclass(frozen=True)
class Safety:
    """Drops images, and removes captions; a sample that had captions and keeps none goes.

    Attributes:
        image_model: folder or Hub name of an image classifier.
        image_labels: the probability of a label from which an image goes, as in `{nsfw: 0.5}`.
        text_model: folder or Hub name of a text classifier.
        text_labels: the same for captions, as in `{toxic: 0.8}`.
        dtype: of the weights: auto (the checkpoint's own), float32, bfloat16 or float16.
    """

    image_model: str = ""
    image_labels: dict[str, float] = field(default_factory=dict)
    text_model: str = ""
    text_labels: dict[str, float] = field(default_factory=dict)
    dtype: str = "auto"

    def __post_init__(self) -> None:
        requested_dtype(self.dtype)
        if not self.image_model and not self.text_model:
            raise ValueError("give image_model with image_labels, text_model with text_labels, or both")
        for medium in ("image", "text"):
            model, labels = getattr(self, f"{medium}_model"), getattr(self, f"{medium}_labels")
            if bool(model) != bool(labels):
                raise ValueError(f"{medium}_model and {medium}_labels belong together")
            for label, least in labels.items():
                if isinstance(least, bool) or not isinstance(least, int | float) or not 0 < least <= 1:
                    raise ValueError(f"{medium}_labels: {label}: {least!r} is no probability above 0")
            with unless_offline(model):
                self.limits(medium)

    def limits(self, medium: str) -> dict[str, float]:
        """The labels of `image` or `text` as their classifier spells them, with their limits."""
        model, labels = getattr(self, f"{medium}_model"), getattr(self, f"{medium}_labels")
        return {label_of(model, str(label), f"{medium}_labels"): least for label, least in labels.items()}

    def __call__(self, batch: list[WebSample]) -> list[Verdict]:
        """The largest probability of each label, and what follows from it."""
        images: list[dict[str, float]] = [{} for _ in batch]
        if self.image_model:
            classify = image_classifier(self.image_model, self.dtype)
            found = classify([sample.image for sample in batch], top_k=_EVERY_LABEL)
            images = [{one["label"]: one["score"] for one in row} for row in found]
        texts = [_texts(sample) if self.text_model else [] for sample in batch]
        flat = [text for own in texts for _, text in own]
        scores = iter(label_probabilities(caption_classifier(self.text_model, self.dtype), flat) if flat else [])
        captions = [[(language, text, next(scores)) for language, text in own] for own in texts]
        return [self.verdict(*one) for one in zip(images, captions, strict=True)]

    def verdict(self, image: dict[str, float], captions: list[tuple[str, str, dict[str, float]]]) -> Verdict:
        """What follows from the probabilities of an image's labels, and of its captions'."""
        of_images, of_texts = self.limits("image"), self.limits("text")
        values: dict[str, Any] = {f"image_{label}": image[label] for label in of_images}
        values |= {f"text_{label}": max(row[label] for _, _, row in captions) for label in of_texts if captions}
        if unsafe := _first(image, of_images):
            return Verdict(f"image is {unsafe}", values=values)
        safe = [(language, text) for language, text, row in captions if not _first(row, of_texts)]
        if captions and not safe:
            return Verdict(f"caption is {_first(captions[0][2], of_texts)}", values=values)
        if len(safe) == len(captions):
            return Verdict(values=values)
        kept = {language: [text for own, text in safe if own == language] for language in dict(safe)}
        return Verdict(labels={"captions": kept}, values=values)


def _first(scores: dict[str, float], labels: dict[str, float]) -> str:
    """The first label with a probability that is too large."""
    return next((label for label, least in labels.items() if scores[label] >= least), "")


def _texts(sample: WebSample) -> list[tuple[str, str]]:
    """Language and text of every caption."""
    captions = sample.record.get("captions") or {}
    return [(language, text) for language in captions for text in captions_in({"captions": captions}, language)]
