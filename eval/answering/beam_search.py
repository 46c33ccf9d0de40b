"""big_vision's beam search for PaliGemma, for `generate` of any model that generates.

    ids = model.generate(**inputs, custom_generate=beam_search, num_beams=3, max_new_tokens=20)

Source: big_vision, trainers/proj/paligemma/predict_fns.py. Differences from Transformers' beam search, which gives
other answers whatever its options are:
- every beam may end in every step: followed by the end token it competes for the best finished answer, however
  unlikely that token is; Transformers considers the end token only among the most likely continuations;
- one finished answer is kept, and the beams continue with other tokens, so there are always `num_beams` of them;
- an answer always ends: beams that are unfinished at the limit do not compete with finished ones. The shortest answer
  is the end token alone, and it wins if the limit is too short for any other;
- scores are sums of log-probabilities, whatever the length.

One difference from big_vision remains: it caps Gemma 2's logits from an answer's second token on, `generate` those of
the first as well. Models without that cap (`final_logit_softcapping` null) do not differ.
"""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    EosTokenCriteria,
    GenerationConfig,
    LogitsProcessorList,
    MaxLengthCriteria,
    StoppingCriteriaList,
)
from transformers.utils import ModelOutput

from openpali.modeling.transformers_versions import CACHE


@dataclass
class BeamAnswers(ModelOutput):
    """Output of `beam_search` when `generate` returns a dict.

    Args:
        sequences: int[B, L + T], the input ids and the best finished answers, padded to the longest.
        sequences_scores: float[B], their log-probabilities.
        token_scores: float[B, T], the log-probability of each of the answer's tokens; 0 for padding.
    """

    sequences: torch.Tensor | None = None
    sequences_scores: torch.Tensor | None = None
    token_scores: torch.Tensor | None = None


@dataclass
class Beams:
    """B searches with k beams each, for answers of at most T tokens.

    Attributes:
        tokens: int[B, k, T], unfinished answers without prompts, padded.
        scores: float[B, k], their log-probabilities.
        token_scores: float[B, k, T], those of each token.
        best_tokens: int[B, T], the best finished answer of each search, padded; it ends in an end token.
        best_scores: float[B], its log-probability; -inf while there is none.
        best_token_scores: float[B, T], that of each token.
        length: tokens of an unfinished answer.
    """

    tokens: torch.Tensor
    scores: torch.Tensor
    token_scores: torch.Tensor
    best_tokens: torch.Tensor
    best_scores: torch.Tensor
    best_token_scores: torch.Tensor
    length: int = 0

    @classmethod
    def empty(cls, searches: int, num_beams: int, limit: int, pad: int, device: torch.device) -> "Beams":
        """Beams without tokens. They are equal, so all but the first have the score -inf."""
        tokens = torch.full((searches, num_beams, limit), pad, device=device)
        scores = torch.full((searches, num_beams), -torch.inf, device=device)
        best_scores = scores[:, 0].clone()
        scores[:, 0] = 0
        token_scores = torch.zeros(tokens.shape, device=device)
        return cls(tokens, scores, token_scores, tokens[:, 0].clone(), best_scores, token_scores[:, 0].clone())

    def finish(self, log_p: torch.Tensor, ends: torch.Tensor) -> None:
        """Keep the best answer among the previous best and every beam followed by an end token.

        Args:
            log_p: float[B, k, V], log-probabilities of the next token.
            ends: int[E], the end tokens.
        """
        scores, choice = (self.scores[..., None] + log_p[..., ends]).flatten(1).max(1)
        searches, parents = torch.arange(len(choice), device=choice.device), choice // len(ends)
        end = ends[choice % len(ends)]
        answers, token_scores = self.tokens[searches, parents], self.token_scores[searches, parents]
        answers[:, self.length], token_scores[:, self.length] = end, log_p[searches, parents, end]
        better = scores > self.best_scores
        self.best_tokens = torch.where(better[:, None], answers, self.best_tokens)
        self.best_token_scores = torch.where(better[:, None], token_scores, self.best_token_scores)
        self.best_scores = torch.where(better, scores, self.best_scores)

    def grow(self, log_p: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """Continue with the k most likely tokens that do not end; arguments as in `finish`.

        Returns:
            int[B * k], the previous row of each beam, to reorder the cache.
        """
        searches, num_beams, vocabulary = log_p.shape
        scores = self.scores[..., None] + log_p
        scores[..., ends] = -torch.inf
        self.scores, choice = scores.flatten(1).topk(num_beams)
        searches = torch.arange(searches, device=choice.device)[:, None]
        parents, following = choice // vocabulary, choice % vocabulary
        self.tokens, self.token_scores = self.tokens[searches, parents], self.token_scores[searches, parents]
        self.tokens[..., self.length] = following
        self.token_scores[..., self.length] = log_p[searches, parents, following]
        self.length += 1
        return (searches * num_beams + parents).flatten()

    def done(self) -> bool:
        """Whether no beam can beat the best finished answer: scores only fall."""
        return bool((self.scores.amax(1) < self.best_scores).all())


def beam_search(
    model: Any,
    input_ids: torch.Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    **model_kwargs: Any,
) -> Any:
    """Beam search for `generate`'s `custom_generate`; `generate` makes all arguments.

    Options that change log-probabilities work as in Transformers; `length_penalty` and `early_stopping` do nothing.

    Args:
        model: encoder-decoder or decoder-only.
        input_ids: int[B * k, L], start tokens of an encoder-decoder, otherwise prompts padded on the left.
        logits_processor: changes of the log-probabilities.
        stopping_criteria: length and end tokens only.
        generation_config: with `num_beams`, k, and `max_length`, tokens of prompt and answer together.
        **model_kwargs: further inputs of the model, for B * k rows; the cache.

    Returns:
        int[B, L + T], the input ids and the best finished answers, padded to the longest; with
        `return_dict_in_generate` a `BeamAnswers`.

    Raises:
        ValueError: there is no end token, or sampling, several answers or other stopping criteria are requested.
    """
    _check(generation_config, stopping_criteria)
    num_beams, limit = generation_config.num_beams, generation_config.max_length - input_ids.shape[1]
    ends: Any = generation_config._eos_token_tensor
    pad: Any = generation_config._pad_token_tensor
    beams = Beams.empty(input_ids.shape[0] // num_beams, num_beams, limit, int(pad), input_ids.device)
    ids, outputs = input_ids, model._prefill(input_ids, generation_config, model_kwargs)
    while True:
        model_kwargs = model._update_model_kwargs_for_generation(
            outputs, model_kwargs, is_encoder_decoder=model.config.is_encoder_decoder
        )
        log_p = logits_processor(ids, outputs.logits[:, -1].float().log_softmax(-1))
        log_p = log_p.to(ids.device).unflatten(0, (-1, num_beams))
        beams.finish(log_p, ends)
        parents = beams.grow(log_p, ends)
        if beams.length == limit or beams.done():
            break
        if model_kwargs.get(CACHE) is not None:
            model_kwargs[CACHE].reorder_cache(parents)
        ids = torch.cat([input_ids, beams.tokens[..., : beams.length].flatten(0, 1)], dim=1)
        new = 1 if model_kwargs["use_cache"] else None
        inputs = model.prepare_inputs_for_generation(ids, next_sequence_length=new, **model_kwargs)
        outputs = model(**inputs, return_dict=True)
    return _result(generation_config, input_ids[::num_beams], beams)


def _check(generation_config: Any, stopping_criteria: StoppingCriteriaList) -> None:
    if generation_config._eos_token_tensor is None:
        raise ValueError("beam search needs an end token: set eos_token_id of model.generation_config, or pass it")
    if generation_config.do_sample:
        raise ValueError("beam search does not sample: pass do_sample=False")
    if generation_config.num_return_sequences > 1:
        raise ValueError("this beam search keeps one answer: leave num_return_sequences out")
    if not all(isinstance(criterion, MaxLengthCriteria | EosTokenCriteria) for criterion in stopping_criteria):
        raise ValueError("beam search stops at length and end tokens only: leave other stopping criteria out")


def _result(generation_config: Any, prompts: torch.Tensor, beams: Beams) -> Any:
    """The output of `generate`; prompts: int[B, L]."""
    ended = torch.isin(beams.best_tokens, generation_config._eos_token_tensor)
    # a search without a finished answer, where an option forbids the end token, has only padding
    length = int(torch.where(ended.any(1), ended.int().argmax(1) + 1, 0).max())
    sequences = torch.cat([prompts, beams.best_tokens[:, :length]], dim=1)
    if not generation_config.return_dict_in_generate:
        return sequences
    return BeamAnswers(sequences, beams.best_scores, beams.best_token_scores[:, :length])
