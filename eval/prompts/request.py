"""Parsing of a task's prompt, so that it can be written in another model's format."""

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
class PromptRequest:
    """The parts of a prompt.

    Attributes:
        kind: one of the papers' prompts, `refer` for a referring expression, or `other`.
        words: the question, the names between semicolons, the expression, or the whole prompt.
        language: of the answer, as a code such as `en`.
    """

    kind: Kind
    words: str
    language: str = "en"

    @property
    def names(self) -> list[str]:
        """Object names of `detect dog ; cat`."""
        return [name.strip() for name in self.words.split(";") if name.strip()]


def read_prompt(example: Example) -> PromptRequest:
    """Parse the prompt of an Example; a bare question, as in ChartQA, is of the kind `answer`."""
    if sentence := example.meta.get("sentence"):
        return PromptRequest("refer", str(sentence))
    prefix = example.prefix.strip()
    for kind, pattern in _PATTERNS.items():
        if match := pattern.fullmatch(prefix):
            found = match.groupdict()
            return PromptRequest(kind, (found.get("words") or "").strip(), found.get("language") or "en")
    return PromptRequest("answer" if prefix.endswith("?") else "other", prefix)
