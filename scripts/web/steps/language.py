"""`language`: which language each caption is in, by lingua; samples without a caption in the wanted ones go."""

import functools
from dataclasses import dataclass
from typing import Any

from openpali.scripts.web.samples import UNKNOWN, Verdict, WebSample

LINGUA = "lingua"


@functools.cache
def detector(languages: tuple[str, ...]) -> Any:
    """A detector that chooses among languages, loaded once in each process.

    Raises:
        ValueError: lingua does not know one of them.
    """
    from lingua import Language as Known
    from lingua import LanguageDetectorBuilder

    known = {one.iso_code_639_1.name.lower(): one for one in Known.all()}
    unknown = [language for language in languages if language not in known]
    if unknown:
        raise ValueError(f"among: {unknown[0]!r} is none of {', '.join(sorted(known))}")
    return LanguageDetectorBuilder.from_languages(*(known[one] for one in languages or known)).build()


@dataclass(frozen=True)
class Language:
    """Sorts captions of unknown language by language, and checks the others.

    Attributes:
        languages: to keep, as ISO 639-1 codes; all when empty.
        among: languages that a caption may be in; all of lingua's 75 when empty. Fewer are faster and surer.
        least_confidence: that the caption is in the language, in [0, 1]; less sure ones are left out.
        check_given: whether captions whose language is given are checked too.
    """

    languages: tuple[str, ...] = ()
    among: tuple[str, ...] = ()
    least_confidence: float = 0.0
    check_given: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.least_confidence <= 1:
            raise ValueError(f"least_confidence is from 0 to 1, not {self.least_confidence:g}")
        if self.among and (missing := set(self.languages) - set(self.among)):
            raise ValueError(f"among: {sorted(missing)[0]!r} of languages is missing")
        if len(self.among) == 1:
            raise ValueError("among: give two languages or more, or none for all")
        detector(self.among)

    def __call__(self, batch: list[WebSample]) -> list[Verdict]:
        """Captions by language; a sample whose captions are all in other languages goes."""
        return [self.verdict(sample.record.get("captions", {})) for sample in batch]

    def verdict(self, captions: dict[str, Any]) -> Verdict:
        """The verdict on a sample's captions."""
        if not captions:
            return Verdict()
        found: dict[str, list[str]] = {}
        for given, texts in captions.items():
            for text in [texts] if isinstance(texts, str) else texts:
                language = given if given != UNKNOWN and not self.check_given else self.detect(text)
                if language and (not self.languages or language in self.languages):
                    found.setdefault(language, []).append(text)
        if not found:
            return Verdict(drop="no caption in these languages")
        return Verdict(labels={"captions": found}, models={"language": LINGUA} if found != captions else {})

    def detect(self, text: str) -> str | None:
        """The language of a text; None where it is too unsure."""
        ranked = detector(self.among).compute_language_confidence_values(text)
        if not ranked or ranked[0].value < max(self.least_confidence, 1e-9):
            return None
        return ranked[0].language.iso_code_639_1.name.lower()
