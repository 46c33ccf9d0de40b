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
        languages: languages to caption in, one drawn for each example among those that the record has; all of them
            when empty.
        lower: write captions in lower case, as PaliGemma's transfer to TextCaps does; CIDEr makes no difference.
        by_language: score each language by itself, and take the mean; for the metric `captions`.
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
        """A caption in one language, of which every one is a reference; None without any."""
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
        """Every caption of the image in the example's language, and with `by_language` which one that is."""
        captions = list(example.references)
        return {"answers": captions, "type": example.meta["language"]} if self.by_language else captions
