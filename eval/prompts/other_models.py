"""Adapters from a task's prompt to another model's input, and from its answer to the task's format.

`ADAPTERS` has one for each `model_type` with prompts of its own; every other model needs a chat template. A prompt is
written as the model's own paper writes it, so that no score is lower for want of PaliGemma's prompt format.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from transformers import BatchFeature, PreTrainedModel

from openpali.data.example import Example
from openpali.eval.prompts.florence import florence_prompt, read_florence
from openpali.eval.prompts.language_names import LANGUAGE_NAMES
from openpali.eval.prompts.request import read_prompt
from openpali.modeling.control_tokens import spaced, special_tokens
from openpali.modeling.processing_prefix_suffix import PrefixSuffixProcessor

# the text, and the objects of a model that writes them in a format of its own
ParsedAnswer = tuple[str, list[dict[str, Any]] | None]


def read_text(processor: Any, ids: torch.Tensor, example: Example) -> ParsedAnswer:
    """Decode an answer, int[T], without special tokens; location tokens are kept."""
    return processor.decode(ids, skip_special_tokens=True).strip(), None


@dataclass(frozen=True)
class PromptAdapter:
    """The prompt format of one kind of model.

    Attributes:
        name: of the format; predictions of different formats are not mixed.
        write: makes the prompt from a processor and an Example.
        read: parses an answer, int[T] without the prompt, from a processor, the answer and an Example.
        one_image: the processor takes a flat list with exactly one image per prompt.
        arrange: changes the processor's output.
    """

    name: str
    write: Callable[[Any, Example], str]
    read: Callable[[Any, torch.Tensor, Example], ParsedAnswer] = read_text
    one_image: bool = False
    arrange: Callable[[BatchFeature], BatchFeature] = lambda inputs: inputs


def bare_prompt(processor: Any, example: Example) -> str:
    """The prefix after its image tokens; a `PrefixSuffixProcessor` adds those itself."""
    if takes_prefixes(processor):
        return example.prefix
    return processor.image_token * len(example.images) + example.prefix


def natural_prompt(
    example: Example, answer: str = "{} Answer with a word or a short phrase.", caption: str = ""
) -> str:
    """The prompt in plain English, for a model that was not trained on PaliGemma's prompts.

    Args:
        example: with the prompt.
        answer: template of a question.
        caption: request for a caption; a sentence that names the language when empty.

    Returns:
        The prefix unchanged for detection, segmentation and other instructions.
    """
    request = read_prompt(example)
    if request.kind == "answer":
        return answer.format(request.words)
    if request.kind == "ocr":
        return "Read the text in the image and write it down, nothing else."
    if request.kind != "caption":
        return example.prefix
    language = LANGUAGE_NAMES.get(request.language, request.language)
    return caption or "Describe the image in one sentence" + (f" in {language}." if language != "English" else ".")


def chameleon_prompt(processor: Any, example: Example) -> str:
    """The plain English prompt, then the image."""
    return natural_prompt(example) + processor.image_token * len(example.images)


def blip_prompt(processor: Any, example: Example) -> str:
    """BLIP-2's question template; a caption has an empty prompt."""
    captioning = read_prompt(example).kind == "caption"
    return "" if captioning else natural_prompt(example, "Question: {} Answer:")


def instruct_blip_prompt(processor: Any, example: Example) -> str:
    """InstructBLIP's templates for short answers and captions."""
    return natural_prompt(example, "Question: {} Short answer:", "A short image description.")


def pad_questions_right(inputs: BatchFeature) -> BatchFeature:
    """Move the padding of InstructBLIP's Q-Former to the right, since it counts positions from the left."""
    order = inputs["qformer_attention_mask"].argsort(dim=1, descending=True, stable=True)
    for key in ("qformer_input_ids", "qformer_attention_mask"):
        inputs[key] = inputs[key].gather(1, order)
    return inputs


def kosmos_prompt(processor: Any, example: Example) -> str:
    """Kosmos-2's templates of captions and answers; names of objects are marked as phrases."""
    request = read_prompt(example)
    if request.kind in ("detect", "refer"):
        return "<grounding>" + "".join(f"<phrase>{name}</phrase>" for name in request.names)
    return natural_prompt(example, "Question: {} Answer:", "An image of")


def read_kosmos(processor: Any, ids: torch.Tensor, example: Example) -> ParsedAnswer:
    """Parse text without marks, and boxes of the prompt's phrase, which ends in the answer's first box."""
    written = processor.decode(ids, skip_special_tokens=True)
    request = read_prompt(example)
    if request.kind not in ("detect", "refer"):
        return processor.post_process_generation(written)[0].strip(), None
    # its parser expects no space around the marks of places
    marks = re.sub(r"\s*(</?object>|<patch_index_\d+>)\s*", r"\1", written)
    _, entities = processor.post_process_generation(kosmos_prompt(processor, example) + marks)
    wanted = {name.lower() for name in request.names}
    rows = [{"box": list(box), "label": phrase, "mask": None} for phrase, _, boxes in entities for box in boxes]
    if request.kind == "refer":
        return written.strip(), [row | {"label": ""} for row in rows]
    return written.strip(), [row for row in rows if row["label"].lower() in wanted]


def chat_prompt(processor: Any, example: Example) -> str:
    """The chat template with images and text as one turn of the user."""
    content = [{"type": "image"} for _ in example.images] + [{"type": "text", "text": natural_prompt(example)}]
    messages = [{"role": "user", "content": content}]
    return processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)


BARE, CHAT = PromptAdapter("bare", bare_prompt), PromptAdapter("chat", chat_prompt)
ADAPTERS = {
    "pali3": BARE,
    "paligemma": BARE,
    "paligemma_naflex": BARE,
    "florence2": PromptAdapter("florence2", florence_prompt, read_florence, one_image=True),
    "chameleon": PromptAdapter("chameleon", chameleon_prompt),
    "kosmos-2": PromptAdapter("kosmos-2", kosmos_prompt, read_kosmos, one_image=True),
    "blip-2": PromptAdapter("blip-2", blip_prompt, one_image=True),
    "instructblip": PromptAdapter("instructblip", instruct_blip_prompt, one_image=True, arrange=pad_questions_right),
}


def prompt_format(model_type: str) -> str:
    """Name of the prompt format of a model type; it is among the settings of a file of predictions."""
    return ADAPTERS.get(model_type, CHAT).name


def find_adapter(model: PreTrainedModel, processor: Any) -> PromptAdapter:
    """The adapter of a model: that of its type, else its chat template.

    Raises:
        ValueError: the model has neither.
    """
    kind = model.config.model_type
    if kind in ADAPTERS:
        return ADAPTERS[kind]
    # a processor of a prefix and a suffix, as PaliGemma's, takes prompts as they are
    if "suffix" in inspect.signature(type(processor).__call__).parameters:
        return BARE
    if not processor.chat_template:
        raise ValueError(
            f"no prompt format is known for a model of the type {kind!r}: its processor has no chat template. Add its"
            f" prompts to ADAPTERS in eval/prompts/other_models.py, which has {', '.join(ADAPTERS)}, or save a"
            " processor with a chat_template."
        )
    return CHAT


def model_inputs(
    model: PreTrainedModel,
    processor: Any,
    examples: Sequence[Example],
    images: Sequence[Sequence[Image.Image]],
    max_length: int | None = None,
) -> BatchFeature:
    """Model inputs of prompts and images, on the CPU.

    Args:
        model: its type selects the prompt format.
        processor: of the model.
        examples: with the prompts.
        images: of each example.
        max_length: tokens of a prompt, for a `PrefixSuffixProcessor`; other processors do not cut.

    Raises:
        ValueError: the model takes one image, and an example has none or several.
    """
    adapter = find_adapter(model, processor)
    own = takes_prefixes(processor)
    texts = [
        adapter.write(processor, example if own else without_special_tokens(processor, example))
        for example in examples
    ]
    side = processor.tokenizer.padding_side if model.config.is_encoder_decoder else "left"
    options: dict[str, Any] = {} if model.config.is_encoder_decoder else {"padding_side": side}
    if own:
        options["controls"] = [example.controls for example in examples]
    if max_length is not None and own:
        options["max_length"] = max_length
    if adapter is CHAT and has_start_token(processor, texts):
        options["add_special_tokens"] = False
    nested: Any = [list(some) for some in images]
    if adapter.one_image:
        for example in examples:
            if len(example.images) != 1:
                raise ValueError(f"{adapter.name} takes one image, and example {example.id} has {len(example.images)}")
        nested = [some[0] for some in images]
    with padding_side(processor.tokenizer, side):
        inputs = processor(images=nested, text=texts, return_tensors="pt", padding=True, **options)
    return adapter.arrange(inputs)


@contextmanager
def padding_side(tokenizer: Any, side: str) -> Iterator[None]:
    """Set the padding side of a tokenizer for a while: some processors (Kosmos-2's) ignore the option."""
    before, tokenizer.padding_side = tokenizer.padding_side, side
    try:
        yield
    finally:
        tokenizer.padding_side = before


def without_special_tokens(processor: Any, example: Example) -> Example:
    """Break up special tokens in a prompt's text, which would count as further images."""
    own = getattr(processor, "image_token", None)
    special = special_tokens(processor.tokenizer, *([str(own)] if own else []))
    return replace(example, prefix=spaced(example.prefix, special))


def takes_prefixes(processor: Any) -> bool:
    """Whether a processor adds image tokens and cuts prompts itself."""
    return isinstance(processor, PrefixSuffixProcessor)


def has_start_token(processor: Any, texts: Sequence[str]) -> bool:
    """Whether the chat template has written the start token, which the tokenizer would repeat."""
    start = processor.tokenizer.bos_token
    return bool(start) and all(text.startswith(start) for text in texts)
