"""A run of seconds through `run_training`, for the tests; as a script, for those that need to kill it.

python tiny_run.py '{"output_dir": ..., "max_steps": 9, "kill_at": 7, ...}'
"""

import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from transformers import TrainerCallback

from openpali import Pali3Config, Pali3ForConditionalGeneration
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.run.command_line import parse
from openpali.recipes.run.resume import open_run
from openpali.recipes.training.trainer import PaliTrainer, run_training

IMAGE, VOCABULARY = 60, 64
ITEMS = 10


class Items(torch.utils.data.Dataset):
    """Random images, prefixes and suffixes of different lengths; item i is always the same."""

    def __len__(self):
        return ITEMS

    def __getitem__(self, i):
        generator = torch.Generator().manual_seed(i)
        return {
            "pixel_values": torch.randn(3, 16, 16, generator=generator),
            "input_ids": torch.tensor([IMAGE] * 4 + torch.randint(3, 50, (3,), generator=generator).tolist()),
            "labels": torch.tensor([*torch.randint(3, 50, (i % 3 + 1,), generator=generator).tolist(), 1]),
        }


def collate(items):
    labels = torch.nn.utils.rnn.pad_sequence([item["labels"] for item in items], batch_first=True, padding_value=-100)
    return {key: torch.stack([i[key] for i in items]) for key in ("pixel_values", "input_ids")} | {"labels": labels}


def tiny_model(seed=0):
    vision = {"model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 32}
    vision |= {"num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    text = {"model_type": "t5", "vocab_size": VOCABULARY, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1}
    text |= {"num_decoder_layers": 1, "num_heads": 2, "dropout_rate": 0.1, "decoder_start_token_id": 0}
    torch.manual_seed(seed)
    config = Pali3Config(vision_config=vision, text_config=text, image_token_id=IMAGE)
    return Pali3ForConditionalGeneration(config)


class Killer(TrainerCallback):
    """The power cut: nothing gets a chance to tidy up."""

    def __init__(self, step, number, everyone=False):
        self.step, self.number, self.everyone = step, number, everyone

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            if self.everyone:  # as torchrun ends a process that has got the signal from a scheduler already
                os.killpg(0, self.number)
                os.killpg(0, self.number)
            else:
                os.kill(os.getpid(), self.number)


def validation_loss(model):
    with torch.no_grad():
        return {"negative_loss": -model(**collate([Items()[i] for i in range(4)])).loss.item()}


def tiny_run(
    kill_at=None, kill_with=signal.SIGKILL, kill_all=False, evaluate=validation_loss, model=None, **options
) -> PaliTrainer:
    defaults = {"max_steps": 4, "per_device_train_batch_size": 4, "learning_rate": 0.02, "logging_steps": 1}
    defaults |= {"save_steps": 500, "tensorboard": False, "use_cpu": True, "warmup_steps": 2, "seed": 3}
    argv = [part for key, value in (defaults | options).items() for part in (f"--{key}", str(value))]
    (args,) = parse([RunArguments], argv)
    checkpoint = open_run(args)
    callbacks = [Killer(kill_at, kill_with, kill_all)] if kill_at else []
    processor = SimpleNamespace(save_pretrained=lambda folder: Path(folder, "processor.json").write_text("{}"))
    return run_training(
        model or tiny_model(),
        processor,  # pyright: ignore
        args,
        Items(),
        collate,
        evaluate,
        "negative_loss",
        resume_from=checkpoint,
        callbacks=callbacks,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    tiny_run(**json.loads(sys.argv[1]))
