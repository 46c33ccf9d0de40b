"""Texts by encoder-decoders of Transformers, greedy and in batches."""

import difflib
import functools
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from openpali.modeling.checkpoints import load_checkpoint, reading
from openpali.modeling.dtypes import requested_dtype
from openpali.scripts.web.labelling.checkpoints import OptionError, unless_offline

AT_ONCE = 128
_MOST_TOKENS = 512
"""Tokens of a prompt; a longer one is cut, as most of these models were trained."""


@functools.cache
def load_tokenizer(name: str) -> Any:
    """The tokenizer of a folder or Hub name, loaded once in each process. Raises CheckpointError."""
    with reading(name):
        return AutoTokenizer.from_pretrained(name)


@functools.cache
def load_model(name: str, dtype: str) -> Any:
    """An encoder-decoder on the process's GPU, or the CPU without one, loaded once. Raises CheckpointError."""
    model: Any = load_checkpoint(AutoModelForSeq2SeqLM, name, dtype=requested_dtype(dtype))
    # greedy, and never with an end that is forced on a text that has used up its tokens
    model.generation_config.update(num_beams=1, do_sample=False, early_stopping=False, length_penalty=1.0)
    model.generation_config.update(max_length=None, forced_eos_token_id=None)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def has_languages(name: str) -> bool:
    """Whether languages are tokens of the tokenizer, as in NLLB and M2M100, and not words of the prompt."""
    return hasattr(load_tokenizer(name), "src_lang")


def language_token(name: str, code: str) -> int:
    """The token of a language.

    Raises:
        OptionError: the model has no such language; the message names similar ones.
    """
    tokenizer = load_tokenizer(name)
    # M2M100 writes `__de__`, NLLB and mBART the code itself
    known: Any = getattr(tokenizer, "lang_code_to_id", None) or tokenizer.all_special_tokens
    if code not in known:
        near = difflib.get_close_matches(code, known, 3, 0.3) or list(known)[-3:]
        raise OptionError(f"{name} has no language {code!r}: did you mean {', '.join(near)}?")
    return int(known[code] if isinstance(known, dict) else tokenizer.convert_tokens_to_ids(code))


def generated(
    name: str, prompts: Sequence[str], most: int, dtype: str = "auto", languages: tuple[str, str] | None = None
) -> list[str]:
    """What a model writes for each prompt; an empty text where it has not ended after `most` tokens.

    Args:
        name: folder or Hub name of an encoder-decoder.
        prompts: n texts; equal ones are answered once.
        most: tokens of an answer.
        dtype: of the weights; auto is the checkpoint's own.
        languages: codes of source and target, for a model with tokens of languages.

    Raises:
        CheckpointError: it cannot be loaded.
        OptionError: it has no such language.
    """
    # of similar length together, for little padding; equal lengths in the order of the alphabet
    distinct = sorted(set(prompts), key=lambda text: (len(text), text))
    found: dict[str, str] = {}
    for start in range(0, len(distinct), AT_ONCE):
        some = distinct[start : start + AT_ONCE]
        found |= zip(some, _batch(name, some, most, dtype, languages), strict=True)
    return [found[prompt] for prompt in prompts]


@torch.inference_mode()
def _batch(name: str, prompts: list[str], most: int, dtype: str, languages: tuple[str, str] | None) -> list[str]:
    model, tokenizer = load_model(name, dtype), load_tokenizer(name)
    options: dict[str, Any] = {"max_new_tokens": most}
    if languages:
        tokenizer.src_lang = languages[0]
        options["forced_bos_token_id"] = language_token(name, languages[1])
    longest = min(tokenizer.model_max_length, _MOST_TOKENS)
    inputs = tokenizer(prompts, padding=True, truncation=True, max_length=longest, return_tensors="pt")
    inputs = {key: inputs[key].to(model.device) for key in ("input_ids", "attention_mask")}
    # the first token is the decoder's start, which is EOS in some models
    ids = model.generate(**inputs, **options)[:, 1:].cpu()
    ends = torch.tensor(model.generation_config.eos_token_id).reshape(-1)
    ended = torch.isin(ids, ends).any(1).tolist()
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    return [text.strip() if end else "" for text, end in zip(texts, ended, strict=True)]


def check_languages(model: str, back_model: str, prompt: str, codes: tuple[str, ...], translates_back: bool) -> None:
    """Check that models of translation know their languages, and are told which one to write.

    Args:
        model: folder or Hub name.
        back_model: the one that translates back; empty for the same.
        prompt: of the first.
        codes: the models' codes of the source and of the languages to write.
        translates_back: whether translations are translated back.

    Raises:
        ValueError: a model does not know a language, or is not told which one to write.
    """
    for name in dict.fromkeys([model, back_model or model]):
        with unless_offline(name):
            for code in codes if has_languages(name) else ():
                language_token(name, code)
    with unless_offline(model):
        if has_languages(model) or "{language}" in prompt:
            return
        if len(codes) > 2:
            remedy = "give a prompt with {language}, or a step for each language"
            raise ValueError(f"{model} is not told which language to write: {remedy}")
        if translates_back and not back_model:
            raise ValueError(f"{model} cannot translate back: give back_model, or least_chrf: 0")
