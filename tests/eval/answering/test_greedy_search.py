"""Answers that leave their batch are those of Transformers' greedy decoding, one prompt at a time."""

from itertools import combinations

import pytest
import torch
from tiny_models import tiny_llava
from tiny_models import tiny_paligemma as stock_paligemma
from tiny_pali3 import KINDS, PAD, tiny_batch, tiny_pali3, without
from tiny_paligemma import IMAGES, PREFIXES, tiny_paligemma, tiny_paligemma_processor
from tiny_paligemma import KINDS as GEMMAS
from transformers import DynamicCache, EncoderDecoderCache, LogitsProcessor, LogitsProcessorList, StaticCache

from openpali.eval.answering.greedy_search import greedy_search, may_leave, suits

LONGEST = 12
COUNT = 6


def choose_ends(model, batch):
    """Make end tokens of up to three of the tokens that a random model says, so that answers differ most in length."""
    model.generation_config.update(eos_token_id=None, pad_token_id=PAD, max_new_tokens=LONGEST)
    endless = model.generate(**batch, do_sample=False)[:, -LONGEST:].tolist()

    def lengths(ends):
        return {next((i for i, token in enumerate(row, 1) if token in ends), LONGEST) for row in endless}

    said = sorted({token for row in endless for token in row} - {PAD})
    model.generation_config.eos_token_id = list(
        max(combinations(said[:30], 3), key=lambda ends: (len(lengths(ends)), min(lengths(ends))))
    )


def pali3(kind):
    """A model, its prompts of different lengths, and the same prompts one by one."""
    model = tiny_pali3(kind)
    batch = without(tiny_batch(COUNT, words=8), "labels")
    lengths = [12, 8, 10, 12, 9, 11]
    batch["attention_mask"] = torch.tensor([[1] * n + [0] * (12 - n) for n in lengths])
    batch["input_ids"] = batch["input_ids"].where(batch["attention_mask"] == 1, PAD)
    alone = [
        {key: value[i : i + 1, :n] if value.ndim == 2 else value[i : i + 1] for key, value in batch.items()}
        for i, n in enumerate(lengths)
    ]
    choose_ends(model, batch)
    return model, batch, alone


def paligemma(make, tokenizer):
    """As `pali3`."""
    if make == "stock":
        model, processor = stock_paligemma()
        prefixes = [
            "<image>" + text for text in ("what is this", "dog", "at the left", "two dog cat bus", "a", "caption")
        ]
    else:
        processor = tiny_paligemma_processor(tokenizer)
        model, prefixes = tiny_paligemma(make, processor), [*PREFIXES, "", "dog"]
    images = [*IMAGES, *IMAGES[:2]]

    def prompts(some, texts):
        options = {"return_tensors": "pt", "padding": True, "padding_side": "left"}
        batch = processor(images=[[image] for image in some], text=texts, **options)
        return without(batch, "labels")

    choose_ends(model.eval(), prompts(images, prefixes))
    return model, prompts(images, prefixes), [prompts([i], [text]) for i, text in zip(images, prefixes)]


# token ids are compared exactly: `answers_alone` makes sure that rounding cannot choose another token
CASES = [*KINDS, *GEMMAS, "stock"]


def case(name, tokenizer):
    return pali3(name) if name in KINDS else paligemma(name, tokenizer)


def answers_alone(model, alone, **options):
    """Transformers' answers and log-probabilities of their tokens, without a near tie anywhere."""
    texts, scores = [], []
    for inputs in alone:
        found = model.generate(**inputs, do_sample=False, return_dict_in_generate=True, output_scores=True, **options)
        steps = torch.stack(found.scores, 1)[0].log_softmax(-1)
        best = steps.topk(2).values
        assert float((best[:, 0] - best[:, 1]).min()) > 2e-5
        texts.append(found.sequences[0, -len(steps) :].tolist())
        scores.append(best[:, 0])
    return texts, scores


def answers_together(model, batch, **options):
    """Answers of `greedy_search`, with and without log-probabilities, and the rows of each step."""
    rows = []
    hook = model.get_decoder().register_forward_hook(lambda *parts: rows.append(len(parts[2].last_hidden_state)))
    found = model.generate(
        **batch, custom_generate=greedy_search, do_sample=False, return_dict_in_generate=True, **options
    )
    hook.remove()
    plain = model.generate(**batch, custom_generate=greedy_search, do_sample=False, **options)
    assert torch.equal(plain, found.sequences)
    length = found.token_scores.shape[1]
    return found.sequences[:, -length:], found.token_scores, rows


@pytest.mark.parametrize("name", CASES)
def test_answers_leave_the_batch_and_are_those_of_one_prompt_at_a_time(name, tiny_tokenizer):
    model, batch, alone = case(name, tiny_tokenizer)
    texts, scores = answers_alone(model, alone)
    ids, log_p, rows = answers_together(model, batch)
    lengths = [len(text) for text in texts]
    assert len(set(lengths)) > 2
    assert ids.shape[1] == max(lengths)
    for row, steps, text, expected in zip(ids, log_p, texts, scores, strict=True):
        assert row.tolist() == text + [PAD] * (ids.shape[1] - len(text))
        torch.testing.assert_close(steps[: len(text)], expected, rtol=1e-4, atol=1e-4)
        assert not steps[len(text) :].any()
    # no step computes an answer that has ended
    assert rows == [sum(n > step for n in lengths) for step in range(max(lengths))]
    assert torch.equal(model.generate(**batch, do_sample=False)[:, -ids.shape[1] :], ids)


@pytest.mark.parametrize("name", ["t5", "gemma"])
def test_options_of_generate_count(name, tiny_tokenizer):
    model, batch, alone = case(name, tiny_tokenizer)
    options = {"no_repeat_ngram_size": 2, "min_new_tokens": 3, "suppress_tokens": [5]}
    texts, _ = answers_alone(model, alone, **options)
    ids, _, rows = answers_together(model, batch, **options)
    assert rows[-1] < COUNT
    for row, text in zip(ids.tolist(), texts, strict=True):
        assert row == text + [PAD] * (len(row) - len(text))


class Temperatures(LogitsProcessor):
    """Remembers a temperature for each row of the batch, so that rows must keep their places."""

    def __init__(self, temperatures):
        self.temperatures = temperatures

    def __call__(self, input_ids, scores):
        return scores / self.temperatures[:, None]


@pytest.mark.parametrize("name", ["t5", "gemma"])
def test_rows_stay_where_an_option_may_remember_them(name, tiny_tokenizer):
    model, batch, _ = case(name, tiny_tokenizer)
    options = {"logits_processor": LogitsProcessorList([Temperatures(torch.linspace(0.5, 2, COUNT))])}
    expected = model.generate(**batch, do_sample=False, **options)
    ids, _, rows = answers_together(model, batch, **options)
    assert torch.equal(expected[:, -ids.shape[1] :], ids)
    assert set(rows) == {COUNT}
    assert (ids == PAD).any()


def test_answers_without_a_cache(tiny_tokenizer):
    for name in ("t5", "gemma"):
        model, batch, _ = case(name, tiny_tokenizer)
        ids, _, rows = answers_together(model, batch)
        again, _, others = answers_together(model, batch, use_cache=False)
        assert torch.equal(ids, again)
        # the images of all answers are read in every step
        assert others == [COUNT] * len(rows)
        assert rows[-1] < COUNT


def test_rows_of_other_caches_stay():
    config = tiny_pali3("t5").config.text_config
    assert may_leave(LogitsProcessorList(), DynamicCache())
    assert may_leave(LogitsProcessorList(), EncoderDecoderCache(DynamicCache(), DynamicCache()))
    assert not may_leave(LogitsProcessorList(), None)
    assert not may_leave(LogitsProcessorList(), StaticCache(config, max_cache_len=4))


def test_other_models_decode_as_transformers_does():
    assert not suits(tiny_llava()[0])
    assert suits(tiny_pali3("t5"))


def test_sampling_and_beams_are_refused():
    model = tiny_pali3("t5")
    batch = without(tiny_batch(), "labels")
    for options in ({"do_sample": True}, {"num_beams": 2}):
        with pytest.raises(ValueError, match="greedy"):
            model.generate(**batch, custom_generate=greedy_search, max_new_tokens=3, **options)
