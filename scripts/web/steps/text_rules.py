"""`text_rules`: leaves out captions that describe nothing: too short or long, addresses, file names, repetitions."""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from openpali.scripts.web.samples import KEEP, Verdict, WebSample

_ADDRESS = re.compile(r"(?:https?://|www\.)\S+|\b[\w.-]+@[\w-]+\.\w+", re.IGNORECASE)
_FILE_NAME = re.compile(
    r"\S+\.(?:jpe?g|png|gif|webp|bmp|tiff?|svg|heic)|(?:img|dsc|dscn|image|photo)[_-]?\d+", re.IGNORECASE
)
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class TextRules:
    """Rules on each caption; a sample of which no caption is left goes, with the reason of its first.

    Attributes:
        least_characters: without the spaces around.
        most_characters: longer captions are left out.
        least_letters: share of letters among the characters that are not spaces.
        most_repeated: share that the most frequent word may have, in captions of four words or more.
        boilerplate: texts that are left out where they are the whole caption, in any case.
    """

    least_characters: int = 3
    most_characters: int = 1000
    least_letters: float = 0.5
    most_repeated: float = 0.5
    boilerplate: tuple[str, ...] = ("click to enlarge", "image", "photo", "thumbnail", "untitled")

    def __post_init__(self) -> None:
        if not 1 <= self.least_characters <= self.most_characters:
            raise ValueError("least_characters is at least 1, and at most most_characters")

    def __call__(self, batch: list[WebSample]) -> list[Verdict]:
        """The captions that follow the rules; a sample without captions stays."""
        return [self.verdict(sample.record.get("captions", {})) for sample in batch]

    def verdict(self, captions: dict[str, Any]) -> Verdict:
        """The verdict on a sample's captions."""
        by_language = {key: [texts] if isinstance(texts, str) else texts for key, texts in captions.items()}
        kept = {key: [text for text in texts if not self.fault(text)] for key, texts in by_language.items()}
        kept = {key: texts for key, texts in kept.items() if texts}
        if kept == by_language:
            return KEEP
        if not kept:
            return Verdict(drop=self.fault(next(text for texts in by_language.values() for text in texts)))
        return Verdict(labels={"captions": kept})

    def fault(self, text: str) -> str:
        """Why a caption is left out, or nothing."""
        text = text.strip()
        solid = "".join(text.split())
        words = [word.lower() for word in _WORD.findall(text)]
        if len(text) < self.least_characters:
            return "caption too short"
        if len(text) > self.most_characters:
            return "caption too long"
        if _ADDRESS.search(text):
            return "caption with an address"
        if _FILE_NAME.fullmatch(text) or text.lower().rstrip(".!") in self.boilerplate:
            return "caption is a file name or boilerplate"
        # vowel signs of Indic scripts are marks, not letters
        if sum(one.isalpha() or not one.isascii() for one in solid) < self.least_letters * len(solid):
            return "caption with few letters"
        if len(words) >= 4 and Counter(words).most_common(1)[0][1] > self.most_repeated * len(words):
            return "caption repeats a word"
        return ""
