"""How a prompt of ours becomes another model's input, and its answer what our tasks read.

A table from `model_type` says it for models with prompts of their own; every other one needs a chat template. A model
is asked in the words that its authors ask it in, so that it is not scored lower for not knowing PaliGemma's.
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

# the text, and things that were found where a model writes them in its own way
Reading = tuple[str, list[dict[str, Any]] | None]


def read_text(processor: Any, ids: torch.Tensor, example: Example) -> Reading:
    """An answer, int[T], as text without special tokens; location tokens are none."""
    return processor.decode(ids, skip_special_tokens=True).strip(), None


@dataclass(frozen=True)
class PromptAdapter:
    """What one kind of model needs.

    Attributes:
        name: of the kind; predictions that were made in other words are not mixed with these.
        write: the text for its processor, of a processor and an Example.
        read: text and things found, of a processor, an answer int[T] without prompt, and an Example.
        one_image: its processor takes a flat list with exactly one image a prompt.
        arrange: changes the inputs that the processor has made.
    """

    name: str
    write: Callable[[Any, Example], str]
    read: Callable[[Any, torch.Tensor, Example], Reading] = read_text
    one_image: bool = False
    arrange: Callable[[BatchFeature], BatchFeature] = lambda inputs: inputs


def bare_prompt(processor: Any, example: Example) -> str:
    """The prefix behind its images; a processor of ours puts them there itself."""
    if is_ours(processor):
        return example.prefix
    return processor.image_token * len(example.images) + example.prefix


def spoken(example: Example, answer: str = "{} Answer with a word or a short phrase.", caption: str = "") -> str:
    """The prompt as one would say it to a model that does not know PaliGemma's prompts.

    Args:
        example: what is asked.
        answer: what stands around a question.
        caption: what asks for a caption; a sentence that names the language when empty.

    Returns:
        The prefix as it is where there is no such saying: detection, segmentation, long instructions.
    """
    asked = read_prompt(example)
    if asked.kind == "answer":
        return answer.format(asked.words)
    if asked.kind == "ocr":
        return "Read the text in the image and write it down, nothing else."
    if asked.kind != "caption":
        return example.prefix
    language = LANGUAGE_NAMES.get(asked.language, asked.language)
    return caption or "Describe the image in one sentence" + (f" in {language}." if language != "English" else ".")


def chameleon_prompt(processor: Any, example: Example) -> str:
    """The words, and the image behind them."""
    return spoken(example) + processor.image_token * len(example.images)


def blip_prompt(processor: Any, example: Example) -> str:
    """As its authors asked for answers; a caption needs no words."""
    captioning = read_prompt(example).kind == "caption"
    return "" if captioning else spoken(example, "Question: {} Answer:")


def instruct_blip_prompt(processor: Any, example: Example) -> str:
    """As its authors asked for short answers and captions."""
    return spoken(example, "Question: {} Short answer:", "A short image description.")


def pad_questions_right(inputs: BatchFeature) -> BatchFeature:
    """The prompt for InstructBLIP's Q-Former with its padding behind it, since positions are counted from the left."""
    order = inputs["qformer_attention_mask"].argsort(dim=1, descending=True, stable=True)
    for key in ("qformer_input_ids", "qformer_attention_mask"):
        inputs[key] = inputs[key].gather(1, order)
    return inputs


def kosmos_prompt(processor: Any, example: Example) -> str:
    """Its beginnings of captions and answers; what it is to find is marked as a phrase."""
    asked = read_prompt(example)
    if asked.kind in ("detect", "refer"):
        return "<grounding>" + "".join(f"<phrase>{name}</phrase>" for name in asked.names)
    return spoken(example, "Question: {} Answer:", "An image of")


def read_kosmos(processor: Any, ids: torch.Tensor, example: Example) -> Reading:
    """Text without its marks; boxes of the phrase that was asked for, which ends in the answer's first box."""
    written = processor.decode(ids, skip_special_tokens=True)
    asked = read_prompt(example)
    if asked.kind not in ("detect", "refer"):
        return processor.post_process_generation(written)[0].strip(), None
    # its reader wants the marks of places one behind the other
    marks = re.sub(r"\s*(</?object>|<patch_index_\d+>)\s*", r"\1", written)
    _, entities = processor.post_process_generation(kosmos_prompt(processor, example) + marks)
    wanted = {name.lower() for name in asked.names}
    rows = [{"box": list(box), "label": phrase, "mask": None} for phrase, _, boxes in entities for box in boxes]
    if asked.kind == "refer":
        return written.strip(), [row | {"label": ""} for row in rows]
    return written.strip(), [row for row in rows if row["label"].lower() in wanted]


def chat_prompt(processor: Any, example: Example) -> str:
    """The chat template with images and words as one turn of a user."""
    content = [{"type": "image"} for _ in example.images] + [{"type": "text", "text": spoken(example)}]
    messages = [{"role": "user", "content": content}]
    return processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)


BARE, CHAT = PromptAdapter("bare", bare_prompt), PromptAdapter("chat", chat_prompt)
ADAPTERS = {
    "pali3": BARE,
    "paligemma": BARE,
    "florence2": PromptAdapter("florence2", florence_prompt, read_florence, one_image=True),
    "chameleon": PromptAdapter("chameleon", chameleon_prompt),
    "kosmos-2": PromptAdapter("kosmos-2", kosmos_prompt, read_kosmos, one_image=True),
    "blip-2": PromptAdapter("blip-2", blip_prompt, one_image=True),
    "instructblip": PromptAdapter("instructblip", instruct_blip_prompt, one_image=True, arrange=pad_questions_right),
}


def prompt_kind(model_type: str) -> str:
    """How a model of this type is asked: what changes its predictions when another way is taken."""
    return ADAPTERS.get(model_type, CHAT).name


def find_adapter(model: PreTrainedModel, processor: Any) -> PromptAdapter:
    """The adapter of a model: that of its type, else its chat template.

    Raises:
        ValueError: it has neither.
    """
    kind = model.config.model_type
    if kind in ADAPTERS:
        return ADAPTERS[kind]
    # a processor of a prefix and a suffix, as PaliGemma's, takes prompts as they are
    if "suffix" in inspect.signature(type(processor).__call__).parameters:
        return BARE
    if not processor.chat_template:
        raise ValueError(
            f"it is not known how to ask a model of the type {kind!r}: its processor has no chat template. Add its"
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
    """Model inputs of prompts and of the images that are shown with them, still on the CPU.

    Args:
        model: whose type decides what is written.
        processor: of the model.
        examples: whose prompts are written.
        images: of each example.
        max_length: tokens of a prompt, for processors of ours; others are not cut.

    Raises:
        ValueError: an example has not one image, where the model takes one.
    """
    adapter = find_adapter(model, processor)
    ours = is_ours(processor)
    texts = [adapter.write(processor, example if ours else plain(processor, example)) for example in examples]
    side = processor.tokenizer.padding_side if model.config.is_encoder_decoder else "left"
    options: dict[str, Any] = {} if model.config.is_encoder_decoder else {"padding_side": side}
    if ours:
        options["controls"] = [example.controls for example in examples]
    if max_length is not None and ours:
        options["max_length"] = max_length
    if adapter is CHAT and starts_itself(processor, texts):
        options["add_special_tokens"] = False
    nested: Any = [list(some) for some in images]
    if adapter.one_image:
        for example in examples:
            if len(example.images) != 1:
                raise ValueError(f"{adapter.name} takes one image, and example {example.id} has {len(example.images)}")
        nested = [some[0] for some in images]
    with padding_on(processor.tokenizer, side):
        inputs = processor(images=nested, text=texts, return_tensors="pt", padding=True, **options)
    return adapter.arrange(inputs)


@contextmanager
def padding_on(tokenizer: Any, side: str) -> Iterator[None]:
    """That side of a tokenizer: some processors (Kosmos-2's) pass the option over and look there."""
    before, tokenizer.padding_side = tokenizer.padding_side, side
    try:
        yield
    finally:
        tokenizer.padding_side = before


def plain(processor: Any, example: Example) -> Example:
    """An example in whose prompt no special token of a processor stands, which would be one of an image too many."""
    own = getattr(processor, "image_token", None)
    special = special_tokens(processor.tokenizer, *([str(own)] if own else []))
    return replace(example, prefix=spaced(example.prefix, special))


def is_ours(processor: Any) -> bool:
    """Whether a processor cuts prompts without their images."""
    return isinstance(processor, PrefixSuffixProcessor)


def starts_itself(processor: Any, texts: Sequence[str]) -> bool:
    """Whether a chat template has written the start token, which the tokenizer would write a second time."""
    start = processor.tokenizer.bos_token
    return bool(start) and all(text.startswith(start) for text in texts)
