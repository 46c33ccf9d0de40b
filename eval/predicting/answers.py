"""Answers to all prompts about images, in batches; several prompts about an image encode it once."""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel

from openpali.data.example import Example
from openpali.eval.answering.decoding import Answer, generate_answers
from openpali.eval.answering.image_features import ImageFeatures, takes_features
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
        group: images, whose features fit in memory together.
        prompts: at least one.
        batch_size: prompts about images that are answered together.
        max_new_tokens: see `generate`.
        num_beams: likewise.

    Returns:
        For each image the answers in the order of the prompts, with their tokens.
    """
    examples = [Example(one.path, "predict", one.images, prompt) for one in group for prompt in prompts]
    encoded = None
    if len(prompts) > 1 and takes_features(model, processor):
        encoded = ImageFeatures(model, processor, [image for one in group for image in one.images], batch_size)
    options = (batch_size, max_new_tokens, num_beams)
    answers = dict(generate_answers(model, processor, examples, *options, return_log_p=True, encoded=encoded))
    ordered = [answers[index] for index in range(len(examples))]
    return [ordered[start : start + len(prompts)] for start in range(0, len(ordered), len(prompts))]
