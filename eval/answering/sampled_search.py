"""Sampled answers of PaLI-3 and PaliGemma, several to each prompt, from numbers that the caller draws.

Each token of each answer is the token at one uniform number of the cumulative probabilities. So an answer depends on
its own numbers and on the model alone, whatever else is in the batch: one process samples what several sample
together.
"""

from collections.abc import Callable, Sequence
from functools import partial
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from openpali.eval.answering.decoding import eval_mode
from openpali.eval.answering.greedy_search import Pick, greedy_search


def uniform_numbers(names: Sequence[str], length: int) -> torch.Tensor:
    """Uniform numbers in [0, 1) of each name, which are its seed: float64[names, length]."""
    seeds = [int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big") for name in names]
    drawn = [np.random.default_rng(seed).random(length) for seed in seeds]
    return torch.from_numpy(np.array(drawn).reshape(len(names), length))


def picker(numbers: torch.Tensor, temperature: float = 1.0, top_k: int = 0, forbidden: Sequence[int] = ()) -> Pick:
    """The choice of tokens by numbers.

    Args:
        numbers: float64[B, T], in [0, 1), one for each token of each answer.
        temperature: scores are divided by it; above 1 answers differ more.
        top_k: tokens to draw from, the likeliest; 0 for all.
        forbidden: tokens that are never drawn.
    """

    def pick(scores: torch.Tensor, rows: torch.Tensor, length: int) -> torch.Tensor:
        # sums of a quarter of a million probabilities: float32 would lose the last ones
        scaled = scores.double() / temperature  # [B', V]
        scaled[:, list(forbidden)] = -torch.inf
        if top_k and top_k < scaled.shape[1]:
            least = scaled.topk(top_k).values[:, -1:]
            scaled = scaled.masked_fill(scaled < least, -torch.inf)
        cumulative = scaled.softmax(-1).cumsum(-1)
        places = numbers.to(scores.device)[rows, length, None] * cumulative[:, -1:]
        # the first token whose sum is above the place has a probability above 0
        return torch.searchsorted(cumulative, places, right=True)[:, 0]

    return pick


def sampled_search(*options: Any) -> Callable[..., Any]:
    """Sampling for `generate`'s `custom_generate`, with `do_sample=False`; arguments as of `picker`."""
    return partial(greedy_search, pick=picker(*options))


def sample_answers(
    model: PreTrainedModel,
    inputs: dict[str, torch.Tensor],
    numbers: torch.Tensor,
    temperature: float = 1.0,
    top_k: int = 0,
) -> list[list[int]]:
    """Sample an answer to each row of prompts; `<image>`, which would mark a place of an image, is never drawn.

    Args:
        model: PaLI-3 or PaliGemma; its training mode does not change.
        inputs: of `generate`, for B rows, on the model's device.
        numbers: float64[B, T], whose T is the longest answer in tokens, end token included.
        temperature: see `picker`.
        top_k: likewise.

    Returns:
        The tokens of each answer up to its end token, which is left out where the answer is cut.
    """
    search = sampled_search(numbers, temperature, top_k, [model.config.image_token_id])
    options: dict[str, Any] = {"custom_generate": search, "do_sample": False}
    with eval_mode(model):
        found: Any = model.generate(**inputs, max_new_tokens=numbers.shape[1], num_beams=1, use_cache=True, **options)  # type: ignore[operator]
    start = 1 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
    ends = model.generation_config.eos_token_id  # type: ignore[union-attr]
    return [up_to_end(row[start:], ends if isinstance(ends, list) else [ends]) for row in found.tolist()]


def up_to_end(tokens: list[int], ends: Sequence[int | None]) -> list[int]:
    """Tokens up to the first end token, which is kept; what follows is padding."""
    stop = next((place + 1 for place, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[:stop]
