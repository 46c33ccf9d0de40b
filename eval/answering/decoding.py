"""Answers of any image-text-to-text model of Transformers for a list of Examples."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from PIL import Image
from tqdm import tqdm
from transformers import BatchFeature, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from openpali.data.example import Example
from openpali.eval.answering.beam_search import beam_search
from openpali.eval.prompts.other_models import find_adapter, model_inputs

GREY = (128, 128, 128)


class Token(NamedTuple):
    """A token of an answer: its text, and its log-probability after the prompt and the tokens before it."""

    text: str
    log_p: float


class Answer(NamedTuple):
    """What a model wrote.

    Attributes:
        text: stripped, special tokens left out and location tokens kept.
        tokens: those of the text, where they were asked for.
        found: things that a model which writes them in its own way has found, `{"box": [x0, y0, x1, y1] in [0, 1],
            "label", "mask": run lengths or None}`; None where the task reads them from the text.
    """

    text: str
    tokens: list[Token] | None = None
    found: list[dict[str, Any]] | None = None


def generate(
    model: PreTrainedModel,
    processor: Any,
    examples: Sequence[Example],
    batch_size: int,
    max_new_tokens: int,
    num_beams: int = 1,
    blank_images: bool = False,
    progress: bool = True,
) -> list[str]:
    """Answer every example, greedily or by the beam search of PaliGemma's authors (see `beam_search`).

    Prompts of like length share a batch, so that little is padded; the answers come back in the given order.

    Args:
        model: encoder-decoder or decoder-only, on any device, in training mode or not; it is left as it was.
        processor: the model's processor.
        examples: what to answer; suffixes and references are not shown to the model.
        batch_size: examples a batch.
        max_new_tokens: limit of an answer, end token included. Greedy answers are cut there; beam search gives the
            likeliest answer that ends before, which may be empty.
        num_beams: 1 is greedy.
        blank_images: show mid-grey images of the same sizes instead, to see what the text alone gives away.
        progress: show a progress bar.

    Returns:
        One stripped text per example, special tokens left out and location tokens kept.
    """
    options = (batch_size, max_new_tokens, num_beams, blank_images)
    with tqdm(total=len(examples), unit="ex", disable=not progress) as bar:
        texts = {}
        for index, answer in answers(model, processor, examples, *options):
            texts[index] = answer.text
            bar.update()
    return [texts[index] for index in range(len(examples))]


def answers(
    model: PreTrainedModel,
    processor: Any,
    examples: Sequence[Example],
    batch_size: int,
    max_new_tokens: int,
    num_beams: int = 1,
    blank_images: bool = False,
    return_token_scores: bool = False,
    max_length: int | None = None,
) -> Iterator[tuple[int, Answer]]:
    """As `generate`, but yields index and answer of each example as soon as its batch is done, in batch order.

    With more than one beam the search is `beam_search`, not Transformers'. With `return_token_scores` answers have
    their tokens with log-probabilities; one number a token is kept, not the logits of the vocabulary. Prompts are cut
    to `max_length` tokens, images not counted, where a configuration does so.
    """
    adapter = find_adapter(model, processor)
    # the longest first: if memory is short, it is short at once
    order = sorted(range(len(examples)), key=lambda i: prompt_size(examples[i]), reverse=True)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        with evaluating(model):
            inputs = encode(model, processor, [examples[i] for i in chosen], blank_images, max_length)
            ids, log_p = generate_ids(model, inputs, max_new_tokens, num_beams, return_token_scores)
        tokens = read_tokens(processor, ids, log_p) if log_p is not None else [None] * len(chosen)
        for index, row, some in zip(chosen, ids, tokens):
            text, found = adapter.read(processor, row, examples[index])
            yield index, Answer(text, some, found)


class RecordedScores(LogitsProcessor):
    """Changes nothing, and keeps the log-probability of the token that greedy decoding takes in each step."""

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """`scores` are float[B, V], after every other processor."""
        self.steps.append(scores.amax(-1) - scores.logsumexp(-1))
        return scores


def generate_ids(
    model: PreTrainedModel, inputs: BatchFeature, max_new_tokens: int, num_beams: int, with_scores: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """int[B, T] new tokens, padded on the right, and with scores float[B, T], their log-probabilities."""
    options: dict[str, Any] = {"num_beams": num_beams, "do_sample": False, "use_cache": True}
    recorded = RecordedScores()
    if num_beams > 1:
        options |= {"custom_generate": beam_search, "return_dict_in_generate": True}
    elif with_scores:
        options["logits_processor"] = LogitsProcessorList([recorded])
    found: Any = model.generate(**inputs, max_new_tokens=max_new_tokens, **options)  # type: ignore[operator]
    ids = found.sequences if num_beams > 1 else found
    if not model.config.is_encoder_decoder:
        ids = ids[:, inputs["input_ids"].shape[1] :]
    if not with_scores:
        return ids, None
    log_p = found.token_scores if num_beams > 1 else torch.stack(recorded.steps, dim=1)
    # without an encoder-decoder's start token
    return ids[:, ids.shape[1] - log_p.shape[1] :], log_p


def read_tokens(processor: Any, ids: torch.Tensor, log_p: torch.Tensor) -> list[list[Token]]:
    """The tokens of each answer that are no special ones, from int[B, T] and float[B, T]."""
    special = set(processor.tokenizer.all_special_ids)
    # five digits are plenty, and keep files of predictions small
    return [
        [Token(processor.decode([i]), round(p, 5)) for i, p in zip(*row) if i not in special]
        for row in zip(ids.tolist(), log_p.tolist())
    ]


def prompt_size(example: Example) -> tuple[int, int]:
    """What decides how long the model's input is: images first, then characters."""
    return len(example.images), len(example.prefix)


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation and inference mode; afterwards every module has the mode that it had before."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        # not model.train(): frozen towers may be in evaluation mode while the rest trains
        for module in training:
            module.training = True


def encode(
    model: PreTrainedModel,
    processor: Any,
    examples: Sequence[Example],
    blank_images: bool,
    max_length: int | None = None,
) -> BatchFeature:
    """Model inputs of prompts and images, on the model's device and in its precision."""
    images = [[blank(image) if blank_images else image for image in example.images] for example in examples]
    inputs = model_inputs(model, processor, examples, images, max_length)
    # PaliGemma's processor returns labels even when there is no suffix
    inputs.pop("labels", None)
    return inputs.to(model.device, dtype=model.dtype)


def blank(image: Image.Image) -> Image.Image:
    """A mid-grey image of the same size."""
    return Image.new("RGB", image.size, GREY)
