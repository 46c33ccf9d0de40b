"""TRL's SFTTrainer on columns `images`, `prompt` and `completion`: with either processor and either class.

The `messages` variant gives the same records as conversations, which are trained whole.
"""

from typing import Any

from probes import Case, ask
from records import records
from transformers import AutoProcessor
from transformers import PaliGemmaForConditionalGeneration as Stock
from trl import SFTConfig, SFTTrainer


def prompt_completion() -> Any:
    """The records in TRL's columns."""
    from datasets import Dataset, Image, List

    rows = [{"images": [r["image"]], "prompt": "<image>" + r["prefix"], "completion": r["suffix"]} for r in records()]
    return Dataset.from_list(rows).cast_column("images", List(Image()))


def conversations() -> Any:
    """The records as messages."""
    from datasets import Dataset, Image, List

    rows = []
    for record in records():
        asked, answer = {"role": "user", "content": record["prefix"]}, record["suffix"]
        rows.append({"images": [record["image"]], "messages": [asked, {"role": "assistant", "content": answer}]})
    return Dataset.from_list(rows).cast_column("images", List(Image()))


def ours() -> Any:
    """Our class; openpali is installed in this environment."""
    from openpali import PaliGemmaForConditionalGeneration

    return PaliGemmaForConditionalGeneration


def our_processor(folder: str) -> Any:
    """Our processor."""
    from openpali.modeling.auto import load_processor

    return load_processor(folder)


def variant(kind: Any, processor: Any, data: Any, **options: Any) -> tuple[Any, Any]:
    """`build` and `load` of a class, a processor and data."""

    def build(case: Case) -> SFTTrainer:
        model: Any = kind().from_pretrained(case.model)
        args = SFTConfig(**case.arguments() | options)
        return SFTTrainer(model=model, args=args, train_dataset=data(), processing_class=processor(case.model))

    return build, lambda folder, case: kind().from_pretrained(folder)


VARIANTS = {
    "stock": variant(lambda: Stock, AutoProcessor.from_pretrained, prompt_completion),
    "our processor": variant(lambda: Stock, our_processor, prompt_completion),
    "our processor and class": variant(ours, our_processor, prompt_completion),
    "messages": variant(lambda: Stock, our_processor, conversations),
}

if __name__ == "__main__":
    ask(VARIANTS, ["trl", "transformers", "accelerate", "openpali", "torch"])
