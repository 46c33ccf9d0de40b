"""Greedy decoding whose finished answers leave the batch, for `generate` of PaLI-3 and PaliGemma.

    ids = model.generate(**inputs, custom_generate=greedy_search, do_sample=False, max_new_tokens=20)

The answers are those of Transformers' greedy decoding, which computes padding for a finished answer until the longest
one of the batch ends. `sampled_search` draws tokens in the same loop.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
import transformers as stock
from transformers import (
    DynamicCache,
    EncoderDecoderCache,
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteriaList,
)
from transformers.utils import ModelOutput

from openpali.eval.answering.sharded import is_sharded
from openpali.modeling.transformers_versions import CACHE

FAMILIES = ("pali3", "paligemma", "paligemma_naflex")
# inputs of a step with a row for each answer
ROWS = ("attention_mask", "decoder_attention_mask", "token_type_ids", "position_ids", "decoder_position_ids")
# changes of scores that look at each row alone; others may remember rows
ROW_WISE = (
    stock.ForcedBOSTokenLogitsProcessor,
    stock.ForcedEOSTokenLogitsProcessor,
    stock.InfNanRemoveLogitsProcessor,
    stock.MinLengthLogitsProcessor,
    stock.MinNewTokensLengthLogitsProcessor,
    stock.NoBadWordsLogitsProcessor,
    stock.NoRepeatNGramLogitsProcessor,
    stock.SequenceBiasLogitsProcessor,
    stock.SuppressTokensAtBeginLogitsProcessor,
    stock.SuppressTokensLogitsProcessor,
)


# the next token of each answer, int[B'], from scores float[B', V], numbers of the answers int[B'] and tokens so far
Pick = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]


@dataclass
class GreedyAnswers(ModelOutput):
    """Output of `greedy_search` when `generate` returns a dict.

    Args:
        sequences: int[B, L + T], the input ids and the answers, padded to the longest.
        token_scores: float[B, T], the log-probability of each of the answer's tokens; 0 for padding.
    """

    sequences: torch.Tensor | None = None
    token_scores: torch.Tensor | None = None


def suits(model: PreTrainedModel) -> bool:
    """Whether answers of a model may leave their batch.

    Other models have inputs that we do not know. Weights that are spread over processes need the same steps in each,
    which Transformers sees to.
    """
    return model.config.model_type in FAMILIES and not is_sharded(model)


def greedy_search(
    model: Any,
    input_ids: torch.Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    pick: Pick = lambda scores, *_: scores.argmax(-1),
    **model_kwargs: Any,
) -> Any:
    """Greedy search for `generate`'s `custom_generate`; `generate` makes all arguments but `pick`.

    Args:
        model: PaLI-3 or PaliGemma.
        input_ids: int[B, L], start tokens of an encoder-decoder, otherwise prompts padded on the left.
        logits_processor: changes of the scores.
        stopping_criteria: of each answer.
        generation_config: with `max_length`, tokens of prompt and answer together.
        pick: chooses the next tokens; the likeliest by default.
        **model_kwargs: further inputs of the model; the cache.

    Returns:
        int[B, L + T], the input ids and the answers, padded to the longest; with `return_dict_in_generate` a
        `GreedyAnswers`.

    Raises:
        ValueError: sampling or several answers are requested.
    """
    if generation_config.do_sample or generation_config.num_beams > 1 or generation_config.num_return_sequences > 1:
        raise ValueError("this search is greedy: pass do_sample=False, num_beams=1 and num_return_sequences=1")
    limit, pad = generation_config.max_length - input_ids.shape[1], generation_config._pad_token_tensor
    answers = input_ids.new_full((len(input_ids), limit), 0 if pad is None else int(pad))
    token_scores = torch.zeros(answers.shape, device=answers.device)
    # number of each answer in the batch, and whether it goes on
    rows, going = torch.arange(len(answers), device=answers.device), answers.new_ones(len(answers), dtype=torch.bool)
    ids, outputs, length = input_ids, model._prefill(input_ids, generation_config, model_kwargs), 0
    while True:
        model_kwargs = model._update_model_kwargs_for_generation(
            outputs, model_kwargs, is_encoder_decoder=model.config.is_encoder_decoder
        )
        logits = outputs.logits[:, -1].to(copy=True, dtype=torch.float32, device=ids.device)  # [B', V]
        # the prompt's logits may be many
        del outputs
        logits = logits_processor(cast(torch.LongTensor, ids), logits)
        chosen = pick(logits, rows, length)  # [B']
        answers[rows, length] = torch.where(going, chosen, answers[rows, length])
        if generation_config.return_dict_in_generate:
            token_scores[rows, length] = going * (logits.gather(1, chosen[:, None])[:, 0] - logits.logsumexp(-1))
        ids = torch.cat([ids, answers[rows, length, None]], dim=1)
        length += 1
        going = going & ~stopping_criteria(ids, None)
        staying = going.nonzero()[:, 0]
        if not len(staying):
            break
        if len(staying) < len(rows) and may_leave(logits_processor, model_kwargs.get(CACHE)):
            rows, ids, going = rows[staying], ids[staying], going[staying]
            model_kwargs = of_rows(model_kwargs, staying)
        new = 1 if model_kwargs["use_cache"] else None
        inputs = model.prepare_inputs_for_generation(ids, next_sequence_length=new, **model_kwargs)
        outputs = model(**inputs, return_dict=True)
    sequences = torch.cat([input_ids, answers[:, :length]], dim=1)
    if not generation_config.return_dict_in_generate:
        return sequences
    return GreedyAnswers(sequences, token_scores[:, :length])


def may_leave(logits_processor: LogitsProcessorList, cache: Any) -> bool:
    """Whether rows may be taken out of a batch: nothing remembers them but a cache that can forget them.

    Without a cache PaliGemma reads the images of the whole batch in every step.
    """
    parts = (
        [cache.self_attention_cache, cache.cross_attention_cache]
        if isinstance(cache, EncoderDecoderCache)
        else [cache]
    )
    dynamic = all(type(part) is DynamicCache for part in parts)
    return dynamic and all(type(one) in ROW_WISE for one in logits_processor)


def of_rows(model_kwargs: dict[str, Any], rows: torch.Tensor) -> dict[str, Any]:
    """The inputs of some rows, int[B']; the cache keeps only these."""
    chosen = model_kwargs | {key: model_kwargs[key][rows] for key in ROWS if model_kwargs.get(key) is not None}
    model_kwargs[CACHE].batch_select_indices(rows)
    if (encoded := model_kwargs.get("encoder_outputs")) is not None:
        parts = {**encoded, "last_hidden_state": encoded.last_hidden_state[rows]}
        chosen["encoder_outputs"] = type(encoded)(**parts)
    return chosen
