"""How the model of a card is used: code and commands, by the kind of the model."""

import shlex
from dataclasses import dataclass

from openpali.recipes.publishing.facts import Facts

# stands for the repository until it is known
PLACEHOLDER = "you/my-model"

# model type, and class where it matters: task of the Hub
TASKS = {"pali3": "image-text-to-text", "paligemma": "image-text-to-text", "siglip": "zero-shot-image-classification"}
TASKS |= {"siglip2": "zero-shot-image-classification", "siglip_vision_model": "image-feature-extraction"}
TASKS["paligemma_naflex"] = "image-text-to-text"
CLASS_TASKS = {"SiglipForImageClassification": "image-classification"}
# of these the processor and the model come with code
OWN_TYPES = ("pali3", "paligemma_naflex", "mask_vqvae")


@dataclass(frozen=True)
class Usage:
    """Python code, commands and a remark; each may be empty."""

    code: str = ""
    commands: str = ""
    note: str = ""


def hub_task(facts: Facts) -> str | None:
    """The `pipeline_tag`; None for models that the Hub has no task for."""
    tasks = [CLASS_TASKS[name] for name in facts.classes if name in CLASS_TASKS]
    return tasks[0] if tasks else TASKS.get(facts.model_type)


def usage(facts: Facts, prompt: str, max_new_tokens: int) -> Usage:
    """How to use a model.

    Args:
        facts: of its run.
        prompt: a real one of the run; empty where none is known.
        max_new_tokens: length of its answers.
    """
    task = hub_task(facts)
    if task == "image-text-to-text":
        return answering(facts, prompt or "caption en", max_new_tokens)
    if task == "image-classification":
        return Usage(pipeline_code(task, "classify", 'classify("photo.jpg")'))
    if task == "zero-shot-image-classification":
        return Usage(zero_shot_code(facts))
    if facts.model_type == "mask_vqvae":
        code = f'from transformers import AutoModel\n\nmodel = AutoModel.from_pretrained("{PLACEHOLDER}"{REMOTE})'
        return Usage(code, f'openpali predict MODEL photo.jpg "segment dog" --codec {PLACEHOLDER}', REMARK)
    if facts.model_type == "captioner":
        return Usage(f'from openpali import Captioner\n\nmodel = Captioner.from_pretrained("{PLACEHOLDER}")')
    if facts.model_type:
        head = facts.classes[0] if facts.classes else "AutoModel"
        return Usage(f'from transformers import {head}\n\nmodel = {head}.from_pretrained("{PLACEHOLDER}")')
    return Usage()


REMOTE = ", trust_remote_code=True"
REMARK = (
    "The code that runs the model lies beside its weights, and `trust_remote_code` runs it: read it before. Where"
    " openpali is installed, `import openpali` takes its place."
)


def answering(facts: Facts, prompt: str, max_new_tokens: int) -> Usage:
    """A model that answers prompts."""
    command = f"openpali predict {PLACEHOLDER} photo.jpg {shlex.quote(prompt)} --max_new_tokens {max_new_tokens}"
    if facts.adapters:
        merge = f"openpali merge {PLACEHOLDER} merged"
        four_bit = " They were trained beside 4-bit weights (QLoRA)." if facts.four_bit else ""
        note = (
            f"These are adapters: `openpali predict` loads them on their base, `merge` makes a whole model.{four_bit}"
        )
        return Usage("", f"{command}\n{merge}", note)
    own = facts.model_type in OWN_TYPES
    call = f'ask(images="photo.jpg", text={prompt!r}, max_new_tokens={max_new_tokens}, return_full_text=False)'
    code = pipeline_code("image-text-to-text", "ask", f'{call}[0]["generated_text"]', REMOTE if own else "")
    return Usage(code, command, REMARK if own else "")


PIPELINE_TEXT_LENGTH = 64  # what Transformers' pipeline pads the labels of any SigLIP to


def zero_shot_code(facts: Facts) -> str:
    """A few lines that choose among labels, with the tokenizer and the text length of the training."""
    if facts.model_type == "siglip" and facts.text_length in (None, PIPELINE_TEXT_LENGTH):
        call = 'classify("photo.jpg", candidate_labels=["a dog", "a cat"])'
        return pipeline_code("zero-shot-image-classification", "classify", call)
    # AutoTokenizer makes a tokenizer of its own for every Siglip2Model
    tokenizer = "PreTrainedTokenizerFast" if facts.model_type == "siglip2" else "AutoTokenizer"
    kinds = {"model": "AutoModel", "images": "AutoImageProcessor", "texts": tokenizer}
    loaded = [f'{name} = {kind}.from_pretrained("{PLACEHOLDER}")' for name, kind in kinds.items()]
    lines = [
        "from PIL import Image",
        f"from transformers import {', '.join(sorted(kinds.values()))}",
        "",
        *loaded,
        'inputs = texts(["a dog", "a cat"], padding="max_length", truncation=True,'
        f' max_length={facts.text_length or PIPELINE_TEXT_LENGTH}, return_tensors="pt")',
        'inputs |= images(Image.open("photo.jpg"), return_tensors="pt")',
        "print(model(**inputs).logits_per_image.softmax(-1))",
    ]
    return "\n".join(lines)


def pipeline_code(task: str, name: str, call: str, options: str = "") -> str:
    """A few lines that ask a pipeline once."""
    loaded = f'{name} = pipeline("{task}", model="{PLACEHOLDER}"{options})'
    return f"from transformers import pipeline\n\n{loaded}\nprint({call})"
