"""The prompts that buttons of the page write, each where the model can answer it."""

from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from openpali.data.example import Example
from openpali.data.sources.builtin.phrases import plural
from openpali.eval.prompts.other_models import find_adapter, read_text
from openpali.eval.prompts.request import read_prompt
from openpali.modeling.processing_tokenizer import LOCATION_TOKENS, SEGMENTATION_TOKENS

THING = "dog"


@dataclass(frozen=True)
class Button:
    """A task: its label, and its prompt with `{things}` or `{thing}` for what the prompt before it was about."""

    label: str
    prompt: str

    def prompt_after(self, before: str) -> str:
        """The prompt; it is about the objects that the last line of the prompts before it asks for, if any."""
        request = read_prompt(Example("", "", (), (before.strip().splitlines() or [""])[-1]))
        names = request.names if request.kind in ("detect", "segment") else []
        words = " ; ".join(names) or THING
        thing = names[0] if names else THING
        return self.prompt.format(words=words, thing=thing, things=plural(thing))


CAPTION = Button("Caption", "caption en")
QUESTION = Button("Question", "answer en what is this?")
COUNT = Button("Count", "answer en how many {things} are there?")
COLOUR = Button("Colour", "answer en which colour is the {thing}?")
TEXT = Button("Text", "ocr")
DETECT = Button("Detect", "detect {words}")
SEGMENT = Button("Segment", "segment {words}")


def buttons_for(model: PreTrainedModel, processor: Any) -> list[Button]:
    """The buttons that a model can answer: boxes and masks need their tokens, or a format of the model's own."""
    adapter = find_adapter(model, processor)
    vocabulary = processor.tokenizer.get_vocab()
    boxes = adapter.read is not read_text or all(token in vocabulary for token in LOCATION_TOKENS)
    masks = all(token in vocabulary for token in LOCATION_TOKENS + SEGMENTATION_TOKENS) or adapter.name == "florence2"
    return [CAPTION, QUESTION, COUNT, COLOUR, TEXT, *([DETECT] if boxes else []), *([SEGMENT] if masks else [])]
