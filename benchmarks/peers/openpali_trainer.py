"""openpali's PaliGemma under Transformers' Trainer, and under its own recipe `openpali transfer`."""

import contextlib
import json
from pathlib import Path
from typing import Any
from unittest import mock

from probes import Case, ask
from records import records, save_images
from transformers import Trainer, TrainingArguments

from openpali import PaliGemmaForConditionalGeneration
from openpali.modeling.auto import load_processor
from openpali.recipes import transfer
from openpali.recipes.training.trainer import PaliTrainer


class Built(BaseException):
    """Thrown in place of training."""


def build(case: Case) -> Trainer:
    """Our class and processor given to the Trainer."""
    processor: Any = load_processor(case.model)
    model: Any = PaliGemmaForConditionalGeneration.from_pretrained(case.model)

    def collate(rows: list[dict[str, Any]]) -> Any:
        texts, answers = [row["prefix"] for row in rows], [row["suffix"] for row in rows]
        images = [row["image"] for row in rows]
        return processor(images=images, text=texts, suffix=answers, padding=True, return_tensors="pt")

    args = TrainingArguments(**case.arguments(), remove_unused_columns=False)
    data: Any = records()
    return Trainer(model=model, args=args, train_dataset=data, data_collator=collate)


def build_recipe(case: Case) -> Any:
    """The trainer that `openpali transfer` builds."""
    folder = Path(case.output).absolute().parent / "data"
    paths = save_images(folder)
    rows = [{"image": str(path), "prefix": r["prefix"], "suffix": r["suffix"]} for r, path in zip(records(), paths)]
    for split in ("train", "validation"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    line = ["--model", case.model, "--data", str(folder), "--feature_cache", "off"]
    fields = case.arguments() | {"tensorboard": False, "freeze": "none", "save_steps": case.save_steps or 10_000}
    for name in ("save_strategy", "report_to", "disable_tqdm"):
        fields.pop(name)
    line += [word for name, value in fields.items() for word in (f"--{name}", str(value))]
    found: list[Any] = []

    def stop(trainer: Any, *_: Any, **__: Any) -> None:
        found.append(trainer)
        raise Built

    with mock.patch.object(PaliTrainer, "train", stop), contextlib.suppress(Built):
        transfer.main(line)
    return found[0]


def load(folder: str, case: Case) -> Any:
    """The saved model."""
    return PaliGemmaForConditionalGeneration.from_pretrained(folder)


if __name__ == "__main__":
    variants: dict[str, Any] = {"trainer": (build, load), "recipe": (build_recipe, load)}
    ask(variants, ["openpali", "transformers", "accelerate", "torch"])
