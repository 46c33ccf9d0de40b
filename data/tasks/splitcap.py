"""`caption {lang} {beginning}`: the rest of a caption that is cut at a random point (PaLI's SplitCap)."""

import random
from dataclasses import dataclass
from typing import Any

from openpali.data.example import Example
from openpali.data.tasks.parts.captions import caption_languages, captions_in, cuts, record_images
from openpali.data.tasks.parts.options import set_tuples


@dataclass(frozen=True)
class SplitCap:
    """Captions cut before a word: PaLI's task on web texts (Chen et al. 2022, section 3.3), in PaliGemma's wording.

    Scripts without spaces are cut between characters. All places have the same probability, including that before the
    first word, where the prompt is that of `caption`. The rest is never empty.

    Attributes:
        languages: of the captions, one drawn for each example among those of the record; all when empty.
    """

    languages: tuple[str, ...] = ("en",)
    metric: str = "cider"
    metric_key: str = "cider"
    max_new_tokens: int = 64
    name: str = "splitcap"

    def __post_init__(self) -> None:
        set_tuples(self, "languages")

    def example(self, record: dict[str, Any], rng: random.Random) -> Example | None:
        """A cut caption; None without a caption in these languages."""
        known = caption_languages(record, self.languages)
        if not known:
            return None
        language = rng.choice(known)
        caption = rng.choice(captions_in(record, language))
        cut = rng.choice(cuts(caption))
        beginning, rest = caption[:cut].rstrip(), caption[cut:]
        return Example(
            id=record["id"],
            task=self.name,
            images=record_images(record),
            prefix=f"caption {language} {beginning}".rstrip(),
            suffix=rest,
            references=(rest,),
            meta={"language": language, "beginning": beginning},
        )

    def prediction(self, text: str, example: Example) -> str:
        """The text without space around it."""
        return text.strip()

    def reference(self, example: Example) -> list[str]:
        """The rest of the caption."""
        return list(example.references)
