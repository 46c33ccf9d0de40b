"""Captions in further languages by a translation model, each translated back and compared with the original."""

import itertools
from dataclasses import dataclass, field

from openpali.data.tasks.parts.captions import captions_in
from openpali.eval.scoring.text_overlap import chrf
from openpali.modeling.dtypes import requested_dtype
from openpali.scripts.web.labelling.seq2seq import check_languages, generated, has_languages
from openpali.scripts.web.running.samples import Verdict, WebSample


@dataclass(frozen=True)
class Translations:
    """Captions in `languages`, from those in `source`; a language that a record has already stays as it is.

    Attributes:
        model: folder or Hub name of an encoder-decoder: NLLB, M2M100 or mBART, whose tokenizers have languages; or
            MADLAD, T5 or Marian, which are told by words of the prompt, or know one language.
        languages: code of ours to that of the model, as in `{de: deu_Latn}`.
        source: language of the captions to translate.
        source_code: code of the model for it; empty for the same one.
        prompt: with the places {text} and {language} (the model's code), as in `<2{language}> {text}` of MADLAD.
        back_model: translates back, with the same codes; empty for the same model. Marian needs another one.
        back_prompt: of that model; empty for the same prompt.
        least_chrf: of a caption and its translation back, in 0..100; 0 translates none back.
        most: captions of a sample that are translated; the first ones.
        max_new_tokens: of a translation; a longer one is left out.
        dtype: of the weights: auto (the checkpoint's own), float32, bfloat16 or float16.
    """

    model: str = ""
    languages: dict[str, str] = field(default_factory=dict)
    source: str = "en"
    source_code: str = ""
    prompt: str = "{text}"
    back_model: str = ""
    back_prompt: str = ""
    least_chrf: float = 40.0
    most: int = 1
    max_new_tokens: int = 128
    dtype: str = "auto"

    def __post_init__(self) -> None:
        # YAML reads the code of Norwegian as false
        codes = {"no" if key is False else str(key): str(code) for key, code in self.languages.items()}
        object.__setattr__(self, "languages", codes)
        if not self.model or not codes:
            raise ValueError("give model and languages, as in {de: deu_Latn}")
        if self.source in codes:
            raise ValueError(f"languages has {self.source}, the source")
        for prompt in (self.prompt, self.back_prompt or self.prompt):
            if "{text}" not in prompt:
                raise ValueError(f"the prompt {prompt!r} has no place for {{text}}")
        if not 0 <= self.least_chrf <= 100 or self.most < 1 or self.max_new_tokens < 1:
            raise ValueError("least_chrf is in 0..100, most and max_new_tokens are at least 1")
        requested_dtype(self.dtype)
        spoken = (self.source_code or self.source, *codes.values())
        check_languages(self.model, self.back_model, self.prompt, spoken, translates_back=self.least_chrf > 0)

    def __call__(self, batch: list[WebSample]) -> list[Verdict]:
        """The captions of each sample with its translations, and the mean chrF of what was translated back."""
        found: list[dict[str, list[str]]] = [{} for _ in batch]
        values: list[dict[str, float | int | str]] = [{} for _ in batch]
        for language, code in self.languages.items():
            texts = [self.texts(sample, language) for sample in batch]
            pairs = iter(self.translated([text for own in texts for text in own], code))
            for place, own in enumerate(texts):
                mine = list(itertools.islice(pairs, len(own)))
                if good := [text for text, score in mine if text and score >= self.least_chrf]:
                    found[place][language] = good
                if mine and self.least_chrf:
                    values[place][f"chrf_{language}"] = round(sum(score for _, score in mine) / len(mine), 1)
        return [self.verdict(*one) for one in zip(batch, found, values, strict=True)]

    def verdict(self, sample: WebSample, found: dict[str, list[str]], values: dict[str, float | int | str]) -> Verdict:
        """The captions of a sample with its translations."""
        labels = {"captions": sample.record["captions"] | found} if found else {}
        return Verdict("", labels, {f"captions.{language}": self.model for language in found}, values)

    def texts(self, sample: WebSample, language: str) -> list[str]:
        """Captions to translate into a language; none where the record has some."""
        captions = sample.record.get("captions") or {}
        return [] if captions.get(language) else list(captions_in({"captions": captions}, self.source)[: self.most])

    def translated(self, texts: list[str], code: str) -> list[tuple[str, float]]:
        """Translation of each text, and its chrF when it is translated back."""
        source = self.source_code or self.source
        there = self.written(self.model, texts, source, code)
        if not self.least_chrf:
            return [(text, 0.0) for text in there]
        back = self.written(self.back_model or self.model, there, code, source, self.back_prompt)
        return [(text, chrf(again, given)) for text, again, given in zip(there, back, texts, strict=True)]

    def written(self, model: str, texts: list[str], source: str, target: str, prompt: str = "") -> list[str]:
        """What a model writes in one language for texts in another."""
        languages = (source, target) if has_languages(model) else None
        template = (prompt or self.prompt).replace("{language}", target)
        prompts = [template.replace("{text}", text) for text in texts]
        return generated(model, prompts, self.max_new_tokens, self.dtype, languages)
