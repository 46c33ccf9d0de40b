"""Answers to all prompts about images, in batches."""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel

from openpali.data.example import Example
from openpali.eval.answering.decoding import Answer, generate_answers
from openpali.eval.predicting.images import Picture


def answer_prompts(
    model: PreTrainedModel,
    processor: Any,
    group: Sequence[Picture],
    prompts: Sequence[str],
    batch_size: int,
    max_new_tokens: int,
    num_beams: int,
) -> list[list[Answer]]:
    """Answer every prompt about every image of a group.

    The answers are those of one example at a time, up to the rounding of another batch.

    Args:
        model: in any mode, which does not change.
        processor: of the model.
        group: images that are answered together.
        prompts: at least one.
        batch_size: prompts about images that are answered together.
        max_new_tokens: see `generate`.
        num_beams: likewise.

    Returns:
        For each image the answers in the order of the prompts, with their tokens.
    """
    examples = [Example(one.path, "predict", one.images, prompt) for one in group for prompt in prompts]
    options = (batch_size, max_new_tokens, num_beams)
    answers = dict(generate_answers(model, processor, examples, *options, return_log_p=True))
    ordered = [answers[index] for index in range(len(examples))]
    return [ordered[start : start + len(prompts)] for start in range(0, len(ordered), len(prompts))]
