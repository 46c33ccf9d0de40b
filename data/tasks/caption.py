"""`caption {lang}`: what is on the image."""

import random
from dataclasses import dataclass
from typing import Any

from openpali.data.example import Example
from openpali.data.tasks.parts.captions import caption_languages, captions_in, record_images
from openpali.data.tasks.parts.options import set_tuples


@dataclass(frozen=True)
class Caption:
    """Captions from records that carry `captions`: language to one text or to several.

    Attributes:
        languages: of the captions, one drawn for each example among those of the record; all when empty.
        lower: lower-case captions, as in PaliGemma's fine-tuning on TextCaps; CIDEr ignores case.
        by_language: score each language separately, and take the mean; for the metric `captions`.
    """

    languages: tuple[str, ...] = ("en",)
    lower: bool = False
    by_language: bool = False
    metric: str = "cider"
    metric_key: str = "cider"
    max_new_tokens: int = 48
    name: str = "caption"

    def __post_init__(self) -> None:
        set_tuples(self, "languages")
        if self.by_language and self.metric != "captions":
            raise ValueError(f"by_language needs metric: captions, and metric is {self.metric!r}")

    def example(self, record: dict[str, Any], rng: random.Random) -> Example | None:
        """A caption in one language, with all captions in it as references; None without any."""
        known = caption_languages(record, self.languages)
        if not known:
            return None
        language = rng.choice(known)
        captions = captions_in(record, language)
        captions = tuple(caption.lower() for caption in captions) if self.lower else captions
        return Example(
            id=record["id"],
            task=self.name,
            controls="none",
            images=record_images(record),
            prefix=f"caption {language}",
            suffix=rng.choice(captions),
            references=captions,
            boxes=tuple(item["box"] for item in record.get("objects", ())),
            meta={"language": language},
        )

    def prediction(self, text: str, example: Example) -> str:
        """The text without space around it."""
        return text.strip()

    def reference(self, example: Example) -> list[str] | dict[str, Any]:
        """All captions of the image in the example's language, with `by_language` also that language."""
        captions = list(example.references)
        return {"answers": captions, "type": example.meta["language"]} if self.by_language else captions
