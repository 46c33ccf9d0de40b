"""What a prompt of ours asks for, so that it can be said in another model's words."""

import re
from dataclasses import dataclass
from typing import Literal

from openpali.data.example import Example

Kind = Literal["caption", "answer", "ocr", "detect", "segment", "refer", "other"]

_LANGUAGE = r"(?P<language>[a-z]{2,3}(?:-[A-Za-z]+)?)"
_PATTERNS: dict[Kind, re.Pattern[str]] = {
    "caption": re.compile(rf"(?:caption|cap|describe)(?: {_LANGUAGE})?"),
    "answer": re.compile(rf"answer {_LANGUAGE}\s+(?P<words>.+)", re.DOTALL),
    "ocr": re.compile(r"ocr"),
    "detect": re.compile(r"detect (?P<words>.+)", re.DOTALL),
    "segment": re.compile(r"segment (?P<words>.+)", re.DOTALL),
}


@dataclass(frozen=True)
class Asked:
    """A prompt taken apart.

    Attributes:
        kind: what is wanted: one of the papers' prompts, `refer` for a sentence that means one object, or `other`.
        words: the question, the names between semicolons, the sentence, or the whole prompt.
        language: in which to answer, as a code such as `en`.
    """

    kind: Kind
    words: str
    language: str = "en"

    @property
    def names(self) -> list[str]:
        """Things to be found, of `detect dog ; cat`."""
        return [name.strip() for name in self.words.split(";") if name.strip()]


def read_prompt(example: Example) -> Asked:
    """Read the prompt of an Example; a question alone, as of ChartQA, is asked for an answer too."""
    if sentence := example.meta.get("sentence"):
        return Asked("refer", str(sentence))
    prefix = example.prefix.strip()
    for kind, pattern in _PATTERNS.items():
        if match := pattern.fullmatch(prefix):
            found = match.groupdict()
            return Asked(kind, (found.get("words") or "").strip(), found.get("language") or "en")
    return Asked("answer" if prefix.endswith("?") else "other", prefix)
