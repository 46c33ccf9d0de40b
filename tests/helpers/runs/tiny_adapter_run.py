"""Runs of seconds with adapters, or without, through the recipe's own loading and training."""

import gc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from PIL import Image
from transformers import TrainerCallback, set_seed

from openpali.data.collator import Collator
from openpali.data.example import Example
from openpali.modeling.auto import load_processor
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.run.resume import open_run
from openpali.recipes.start.adapters import AdapterArguments, load_for_training
from openpali.recipes.training.progress import read_log
from openpali.recipes.training.trainer import PaliTrainer, run_training

ANSWERS = {"red": "a red dog", "lime": "two green cats", "blue": "a dog", "white": "en"}
DEFAULTS = {"max_steps": 6, "per_device_train_batch_size": 4, "learning_rate": 0.02, "logging_steps": 1, "seed": 3}
DEFAULTS |= {"save_steps": 500, "tensorboard": False, "use_cpu": True, "lora_rank": 2, "lora_dropout": 0.1}


class PowerCut(Exception):
    """What stops a run in a test."""


class Cutter(TrainerCallback):
    """Cuts the power after a step."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise PowerCut


def examples(count: int = 10) -> list[Example]:
    """Images of one colour and noise, each with the answer of its colour."""
    made = []
    for i in range(count):
        colour = list(ANSWERS)[i % len(ANSWERS)]
        image = Image.new("RGB", (24, 20), colour)
        image.putpixel((i, i), (0, 0, 0))
        made.append(Example(str(i), "naming", (image,), "what is this", ANSWERS[colour]))
    return made


def adapter_run(
    checkpoint: Path,
    folder: Path,
    peft: str,
    cut_at: int | None = None,
    evaluate: Any = None,
    prepare: Any = None,
    save_processor: bool = False,
    dtype: Any = "auto",
    **options: Any,
) -> PaliTrainer:
    """One run of the recipe's loading and training, or what is left of it; `prepare` sees the model before."""
    given = DEFAULTS | options
    adapters = AdapterArguments(peft=peft, **{key: given.pop(key) for key in list(given) if "lora" in key})
    # the Trainer collects garbage in every run, and what was imported is none
    gc.freeze()
    run = RunArguments(output_dir=str(folder), **given)
    resume_from = open_run(run)
    set_seed(run.seed)
    processor = load_processor(checkpoint)
    collator = Collator(processor)
    model = load_for_training(str(checkpoint), adapters, dtype, run)
    if prepare is not None:
        prepare(model)
    saved: Any = processor if save_processor else SimpleNamespace(save_pretrained=lambda folder: None)
    callbacks = [Cutter(cut_at)] if cut_at else []
    return run_training(
        model, saved, run, examples(), collator, evaluate, "score", resume_from=resume_from, callbacks=callbacks
    )


def curve(folder: Path) -> list[tuple]:
    """Step, loss, gradient norm and learning rate of every step."""
    rows = [row for row in read_log(folder / "logs.jsonl") if "loss" in row]
    return [(row["step"], row["loss"], row["grad_norm"], row["lr"]) for row in rows]


def without_dropout(model: Any) -> None:
    """T5 has rates in modules and in attributes."""
    for module in model.modules():
        for name in ("p", "dropout"):
            if isinstance(vars(module).get(name), float):
                setattr(module, name, 0.0)
