"""Generation of answers by any image-text-to-text model of Transformers, for a list of Examples."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from PIL import Image
from tqdm import tqdm
from transformers import BatchFeature, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from openpali.data.example import Example
from openpali.eval.answering.beam_search import beam_search
from openpali.eval.answering.greedy_search import greedy_search, suits
from openpali.eval.answering.image_features import ImageFeatures, image_features
from openpali.eval.prompts.other_models import find_adapter, model_inputs

GREY = (128, 128, 128)


class Token(NamedTuple):
    """A token of an answer: its text, and its log-probability given the prompt and the tokens before it."""

    text: str
    log_p: float


class Answer(NamedTuple):
    """A model's answer to one example.

    Attributes:
        text: stripped, without special tokens but with location tokens.
        tokens: of the text, where they were requested.
        found: objects of a model that writes them in a format of its own, `{"box": [x0, y0, x1, y1] in [0, 1],
            "label", "mask": RLE or None}`; None where the task parses them from the text.
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
    """Answer every example, greedily or by big_vision's beam search for PaliGemma (see `beam_search`).

    Prompts of similar length share a batch, so that little is padded; the answers are in the order of the examples.
    PaLI-3 and PaliGemma encode an image once for all its prompts, and their greedy answers leave the batch when they
    end.

    Args:
        model: encoder-decoder or decoder-only, on any device; its training mode does not change.
        processor: the model's processor.
        examples: prompts and images; the model does not see suffixes and references.
        batch_size: examples a batch.
        max_new_tokens: limit of an answer, end token included. Greedy answers are cut there; beam search returns the
            most likely answer that ends before, which may be empty.
        num_beams: 1 is greedy.
        blank_images: use mid-grey images of the same sizes instead (blind baseline).
        progress: show a progress bar.

    Returns:
        One stripped text per example, without special tokens but with location tokens.
    """
    options = (batch_size, max_new_tokens, num_beams, blank_images)
    with tqdm(total=len(examples), unit="ex", disable=not progress) as bar:
        texts = {}
        for index, answer in generate_answers(model, processor, examples, *options):
            texts[index] = answer.text
            bar.update()
    return [texts[index] for index in range(len(examples))]


def generate_answers(
    model: PreTrainedModel,
    processor: Any,
    examples: Sequence[Example],
    batch_size: int,
    max_new_tokens: int,
    num_beams: int = 1,
    blank_images: bool = False,
    return_log_p: bool = False,
    max_length: int | None = None,
    features: ImageFeatures | None = None,
) -> Iterator[tuple[int, Answer]]:
    """As `generate`, but yields index and answer of each example when its batch is done, in batch order.

    With `return_log_p` answers have their tokens with log-probabilities; memory holds one number per token, not the
    logits of the vocabulary. `max_length` cuts prompts to that many tokens, images not counted. `features` of earlier
    calls are used again, if the model has not changed.
    """
    adapter = find_adapter(model, processor)
    features = features or image_features(model, processor, batch_size)
    # the longest first, so that a lack of memory shows at once
    order = sorted(range(len(examples)), key=lambda i: prompt_size(examples[i]), reverse=True)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        with eval_mode(model):
            inputs = encode(model, processor, [examples[i] for i in chosen], blank_images, max_length, features)
            ids, log_p = generate_ids(model, inputs, max_new_tokens, num_beams, return_log_p)
        tokens = read_tokens(processor, ids, log_p) if log_p is not None else [None] * len(chosen)
        for index, row, some in zip(chosen, ids, tokens):
            text, found = adapter.read(processor, row, examples[index])
            yield index, Answer(text, some, found)


class GreedyLogProbabilities(LogitsProcessor):
    """Records the log-probability of the token that greedy decoding takes in each step; changes nothing."""

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """`scores` are float[B, V], after every other processor."""
        self.steps.append(scores.amax(-1) - scores.logsumexp(-1))
        return scores


def generate_ids(
    model: PreTrainedModel, inputs: BatchFeature, max_new_tokens: int, num_beams: int, with_log_p: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Generate int[B, T] new tokens, padded on the right, and float[B, T], their log-probabilities or None."""
    options: dict[str, Any] = {"num_beams": num_beams, "do_sample": False, "use_cache": True}
    own, recorded = num_beams > 1 or suits(model), GreedyLogProbabilities()
    if own:
        options["custom_generate"] = beam_search if num_beams > 1 else greedy_search
        options["return_dict_in_generate"] = with_log_p
    elif with_log_p:
        options["logits_processor"] = LogitsProcessorList([recorded])
    found: Any = model.generate(**inputs, max_new_tokens=max_new_tokens, **options)  # type: ignore[operator]
    ids = found.sequences if own and with_log_p else found
    if not model.config.is_encoder_decoder:
        ids = ids[:, inputs["input_ids"].shape[1] :]
    if not with_log_p:
        return ids, None
    log_p = found.token_scores if own else torch.stack(recorded.steps, dim=1)
    # without an encoder-decoder's start token
    return ids[:, ids.shape[1] - log_p.shape[1] :], log_p


def read_tokens(processor: Any, ids: torch.Tensor, log_p: torch.Tensor) -> list[list[Token]]:
    """The tokens of each answer without special ones, from int[B, T] and float[B, T]."""
    special = set(processor.tokenizer.all_special_ids)
    # five digits suffice, and keep files of predictions small
    return [
        [Token(processor.decode([i]), round(p, 5)) for i, p in zip(*row) if i not in special]
        for row in zip(ids.tolist(), log_p.tolist())
    ]


def prompt_size(example: Example) -> tuple[int, int]:
    """Sort key for the length of the model's input: number of images, then characters."""
    return len(example.images), len(example.prefix)


@contextmanager
def eval_mode(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation and inference mode; afterwards every module has its previous mode."""
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
    features: ImageFeatures | None = None,
) -> BatchFeature:
    """Model inputs of prompts and images on the model's device and in its precision.

    With `features` images are encoded, and these are in the image encoder's precision.
    """
    if features is not None:
        processor = features.in_place_of_images(processor)
    images = [[blank_image(image) if blank_images else image for image in example.images] for example in examples]
    inputs = model_inputs(model, processor, examples, images, max_length)
    # PaliGemma's processor returns labels even when there is no suffix
    inputs.pop("labels", None)
    encoded = inputs.pop("pixel_values", None) if features is not None else None
    inputs = inputs.to(model.device, dtype=model.dtype)
    if encoded is not None:
        inputs["image_features"] = encoded
    return inputs


def blank_image(image: Image.Image) -> Image.Image:
    """A mid-grey image of the same size."""
    return Image.new("RGB", image.size, GREY)
