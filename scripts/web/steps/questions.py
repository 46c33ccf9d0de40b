"""Questions with answers from the English captions (VQ2A), by rules or by a language model, optionally checked."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from openpali._version import __version__
from openpali.data.tasks.parts.caption_questions import answer_candidates
from openpali.eval.scoring.text_overlap import token_f1
from openpali.modeling.dtypes import requested_dtype
from openpali.scripts.web.labelling.rule_questions import LANGUAGE, Pair, captions_to_ask, ruled_pairs
from openpali.scripts.web.labelling.seq2seq import generated
from openpali.scripts.web.running.samples import Verdict, WebSample


@dataclass(frozen=True)
class Questions:
    """Label `questions`: `[{"question", "answer", "language": "en"}]`; a record that has some keeps its own.

    Attributes:
        model: folder or Hub name of a question generator, an encoder-decoder such as a T5; empty for rules alone.
        prompt: of the generator, with the places {answer} and {context}, in the words of its training.
        further_answers: to ask for beside parts of the caption, such as `yes` and `no`.
        answer_model: folder or Hub name of an encoder-decoder that answers questions on a text. A pair stays if its
            answer agrees; empty keeps every pair.
        answer_prompt: of that model, with the places {question} and {context}.
        least_f1: of the words of both answers, after VQAv2's normalisation, for a pair to stay.
        most: pairs of a sample; the first ones, shared by its captions in their order.
        max_new_tokens: of a question or an answer; a longer one is left out.
        dtype: of the weights: auto (the checkpoint's own), float32, bfloat16 or float16.
    """

    model: str = ""
    prompt: str = "answer: {answer} context: {context}"
    further_answers: list[str] = field(default_factory=list)
    answer_model: str = ""
    answer_prompt: str = "question: {question} context: {context}"
    least_f1: float = 0.5
    most: int = 8
    max_new_tokens: int = 48
    dtype: str = "auto"

    def __post_init__(self) -> None:
        # YAML reads yes and no as true and false
        given: list[Any] = self.further_answers
        words = [("no", "yes")[one] if isinstance(one, bool) else str(one) for one in given]
        object.__setattr__(self, "further_answers", words)
        templates = {"prompt": ("answer", "context"), "answer_prompt": ("question", "context")}
        for option, places in templates.items():
            for place in places:
                if f"{{{place}}}" not in getattr(self, option):
                    raise ValueError(f"{option} {getattr(self, option)!r} has no place for {{{place}}}")
        if not 0 <= self.least_f1 <= 1 or self.most < 1 or self.max_new_tokens < 1:
            raise ValueError("least_f1 is in [0, 1], most and max_new_tokens are at least 1")
        if words and not self.model:
            raise ValueError("further_answers are for a model: rules ask for none")
        requested_dtype(self.dtype)

    def __call__(self, batch: list[WebSample]) -> list[Verdict]:
        """The pairs of each sample; no label where there are none."""
        pairs = self.asked(batch) if self.model else ruled_pairs(batch)
        checked = self.checked(pairs)
        maker = self.model or f"openpali {__version__}"
        maker += f", checked by {self.answer_model}" if self.answer_model else ""
        found: list[dict[str, str]] = [{} for _ in batch]
        for place, _, question, answer in checked:
            found[place].setdefault(question, answer)
        asked = Counter(place for place, *_ in pairs)
        verdicts = []
        for place, own in enumerate(found):
            kept = [{"question": key, "answer": own[key], "language": LANGUAGE} for key in list(own)[: self.most]]
            labels, models = ({"questions": kept}, {"questions": maker}) if kept else ({}, {})
            verdicts.append(Verdict("", labels, models, {"asked": asked[place], "questions": len(kept)}))
        return verdicts

    def asked(self, batch: list[WebSample]) -> list[Pair]:
        """The generator's question for each part of each caption that may be an answer."""
        asked = []
        for place, caption in captions_to_ask(batch):
            answers = dict.fromkeys([*answer_candidates(caption), *self.further_answers])
            asked += [(place, caption, answer) for answer in answers]
        prompts = [self.prompt.replace("{answer}", answer).replace("{context}", text) for _, text, answer in asked]
        questions = generated(self.model, prompts, self.max_new_tokens, self.dtype)
        return [(*one[:2], text, one[2]) for one, text in zip(asked, questions, strict=True) if text]

    def checked(self, pairs: list[Pair]) -> list[Pair]:
        """Pairs whose answer the second model gives too."""
        if not self.answer_model:
            return pairs
        template = self.answer_prompt
        prompts = [template.replace("{question}", asked).replace("{context}", text) for _, text, asked, _ in pairs]
        answers = generated(self.answer_model, prompts, self.max_new_tokens, self.dtype)
        agree = (token_f1(given, pair[3]) >= self.least_f1 for given, pair in zip(answers, pairs, strict=True))
        return [pair for pair, agrees in zip(pairs, agree, strict=True) if agrees]
