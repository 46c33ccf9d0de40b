"""Transformers' Trainer with its own PaliGemma, as in the notebooks: a `collate_fn` around `processor(suffix=...)`."""

from typing import Any

from probes import Case, ask
from records import records
from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor, Trainer, TrainingArguments


def build(case: Case) -> Trainer:
    """Model, processor and data given to the Trainer."""
    processor: Any = PaliGemmaProcessor.from_pretrained(case.model)
    model: Any = PaliGemmaForConditionalGeneration.from_pretrained(case.model)

    def collate(rows: list[dict[str, Any]]) -> Any:
        texts = ["<image>" + row["prefix"] for row in rows]
        answers = [row["suffix"] for row in rows]
        images = [row["image"] for row in rows]
        return processor(images=images, text=texts, suffix=answers, padding="longest", return_tensors="pt")

    args = TrainingArguments(**case.arguments(), remove_unused_columns=False)
    data: Any = records()
    return Trainer(model=model, args=args, train_dataset=data, data_collator=collate)


def load(folder: str, case: Case) -> Any:
    """The saved model."""
    return PaliGemmaForConditionalGeneration.from_pretrained(folder)


if __name__ == "__main__":
    ask({"stock": (build, load)}, ["transformers", "accelerate", "torch"])
