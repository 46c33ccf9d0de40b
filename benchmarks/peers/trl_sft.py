"""TRL's SFTTrainer, on its own columns for images with either processor, and with a collator that writes suffixes.

`messages` gives the records as conversations. `guide` is the script of docs/guide/trl.md.
"""

from typing import Any

from datasets import Dataset, Image, List
from probes import Case, ask
from records import records
from transformers import AutoProcessor, Trainer
from transformers import PaliGemmaForConditionalGeneration as Stock
from trl import SFTConfig, SFTTrainer


def prompt_completion() -> Any:
    """The records in TRL's columns for prompts and completions."""
    rows = [{"images": [r["image"]], "prompt": "<image>" + r["prefix"], "completion": r["suffix"]} for r in records()]
    return Dataset.from_list(rows).cast_column("images", List(Image()))


def conversations() -> Any:
    """The records as messages."""
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


def suffixes(processor: Any) -> Any:
    """A collator that gives completions to the processor as suffixes."""

    def collate(rows: list[dict[str, Any]]) -> Any:
        texts, answers = [row["prompt"] for row in rows], [row["completion"] for row in rows]
        images = [row["images"] for row in rows]
        return processor(images=images, text=texts, suffix=answers, padding=True, return_tensors="pt")

    return collate


class PapersLoss(SFTTrainer):
    """TRL's trainer with the papers' loss, which the model computes where no number of tokens is given."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = False

    def compute_loss(self, model: Any, inputs: Any, return_outputs: Any = False, num_items_in_batch: Any = None):
        """As Transformers' Trainer does."""
        return Trainer.compute_loss(self, model, inputs, return_outputs)


def variant(kind: Any, processor: Any, data: Any, collator: Any = None, trainer: Any = SFTTrainer) -> tuple[Any, Any]:
    """`build` and `load` of a class, a processor, data, and a collator of the processor."""

    def build(case: Case) -> SFTTrainer:
        model: Any = kind().from_pretrained(case.model)
        reads = processor(case.model)
        options: dict[str, Any] = {"data_collator": collator(reads)} if collator else {}
        args = SFTConfig(**case.arguments() | ({"remove_unused_columns": False} if collator else {}))
        return trainer(model=model, args=args, train_dataset=data(), processing_class=reads, **options)

    return build, lambda folder, case: kind().from_pretrained(folder)


def stock() -> Any:
    """Transformers' class."""
    return Stock


VARIANTS = {
    "columns": variant(stock, AutoProcessor.from_pretrained, prompt_completion),
    "columns, our processor": variant(stock, our_processor, prompt_completion),
    "guide": variant(ours, our_processor, prompt_completion),
    "guide, the papers' loss": variant(ours, our_processor, prompt_completion, trainer=PapersLoss),
    "messages, our processor": variant(stock, our_processor, conversations),
    "collator": variant(stock, AutoProcessor.from_pretrained, prompt_completion, suffixes),
}

if __name__ == "__main__":
    ask(VARIANTS, ["trl", "transformers", "accelerate", "openpali", "torch"])
