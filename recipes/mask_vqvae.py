"""The mask tokenizer: a VQ-VAE of instance masks, whose codes are the segmentation tokens (PaliGemma, PaLI-3 3.4).

    openpali mask_vqvae --config mask_vqvae/builtin

The result is a `MaskVQVAE` that `from_pretrained` loads, and a report on held-out masks, with `masks.png` beside it.
"""

from dataclasses import dataclass, field
from typing import Any, cast

import torch
from transformers import PreTrainedModel, set_seed

from openpali.data.files.config import ConfigError, as_dict
from openpali.modeling.checkpoints import load_checkpoint
from openpali.modeling.configuration_mask_vqvae import MaskVQVAEConfig
from openpali.modeling.modeling_mask_vqvae import MaskVQVAE
from openpali.recipes.publishing.card import write_card
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.run.checkpoint_name import check_checkpoint
from openpali.recipes.run.command_line import command, parse
from openpali.recipes.run.datasets import load_splits, make_source, report_skipped
from openpali.recipes.run.resume import open_run
from openpali.recipes.stages.instance_masks import Masks, cached_masks, collate
from openpali.recipes.stages.mask_scores import mask_report, reconstructions, square_scores
from openpali.recipes.training.trainer import run_training

BUILT_IN = {"name": "emoji", "split": "train", "size": 256, "concepts": 204, "objects": [2, 6]}


@dataclass
class MaskVQVAEArguments:
    """Arguments of this stage alone."""

    source: dict | str | None = field(default=None, metadata={"help": "images with masks: name and options"})
    unseen: dict | str | None = field(
        default=None,
        metadata={"help": "another source to report on, such as objects that are not in the training data"},
    )
    model: str | None = field(default=None, metadata={"help": "checkpoint to start from; new weights if unset"})
    codec: dict | str | None = field(default=None, metadata={"help": "changes to MaskVQVAEConfig"})
    train_masks: int = field(default=20_000, metadata={"help": "masks to train on, at most"})
    test_masks: int = field(default=1_000, metadata={"help": "held-out masks to report on, at most"})
    orientations: int = field(default=1, metadata={"help": "1: masks as they are; 2: also mirrored; 8: also rotated"})
    best_metric: str = field(default="iou", metadata={"help": "score that picks the best weights"})

    def __post_init__(self):
        self.source = as_dict(self.source, "source") or BUILT_IN
        self.unseen = as_dict(self.unseen, "unseen")
        self.codec = as_dict(self.codec, "codec")
        if min(self.train_masks, self.test_masks) < 1:
            raise ConfigError("train_masks and test_masks are at least 1")


@dataclass
class MaskVQVAERun(RunArguments):
    """Learning rate and warm-up of PaliGemma's mask VQ-VAE; nothing decays."""

    learning_rate: float = field(default=3e-4, metadata={"help": "peak of the schedule"})
    warmup_steps: float = field(default=500, metadata={"help": "steps, or below 1 a share of the run"})


def make_model(args: MaskVQVAEArguments, incomplete: bool = False) -> MaskVQVAE:
    """A new mask tokenizer, or the checkpoint to start from.

    Raises:
        ConfigError: both a checkpoint and changes to its configuration, or an unknown field.
    """
    changes = as_dict(args.codec, "codec")
    if args.model:
        if changes:
            raise ConfigError("codec changes a new model: leave it out, or leave out model")
        model: Any = load_checkpoint(MaskVQVAE, check_checkpoint(args.model, "model"), incomplete=incomplete)
        return model
    known = vars(MaskVQVAEConfig())
    for key in changes:
        if key not in known:
            raise ConfigError(f"codec: MaskVQVAEConfig has no field {key!r}")
    return MaskVQVAE(MaskVQVAEConfig(**changes))


@command
def main(argv: list[str] | None = None) -> None:
    """Crop the masks, train, and report on held-out ones."""
    args, run = parse([MaskVQVAEArguments, MaskVQVAERun], argv)
    checkpoint = open_run(run, vars(args))

    set_seed(run.seed)
    model = make_model(args, run.incomplete_checkpoint)
    # a quarter faster on CPUs, and faster on GPUs
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    spec, side = as_dict(args.source, "source"), model.config.image_size
    sources = load_splits(spec, run)
    train = Masks(cached_masks(spec, "train", sources["train"], args.train_masks, side, run), args.orientations)
    validation = cached_masks(spec, "validation", sources["validation"], run.eval_limit, side, run)
    run.say(f"{len(train.squares):,} masks to train on in {args.orientations} orientation(s)")

    def evaluate(model: PreTrainedModel) -> dict[str, float]:
        return square_scores(model, validation, run.per_device_eval_batch_size)

    no_processor = cast(Any, None)
    run_training(model, no_processor, run, train, collate, evaluate, args.best_metric, resume_from=checkpoint)
    tested = {"held-out masks": (spec, sources["test"])}
    unseen = as_dict(args.unseen, "unseen")
    if unseen:
        tested["masks of unseen things"] = (unseen, make_source(unseen))
    report(model.eval(), args, run, tested)
    write_card(run)
    report_skipped(run)


def report(model: MaskVQVAE, args: MaskVQVAEArguments, run: RunArguments, tested: dict[str, Any]) -> None:
    """Score the trained model, and write the report.

    Args:
        model: in evaluation mode.
        args: of the stage.
        run: of the stage.
        tested: specification and source of each test set, by name.
    """
    tests = {}
    for name, (spec, source) in tested.items():
        squares = cached_masks(spec, name.replace(" ", "-"), source, args.test_masks, model.config.image_size, run)
        if run.process_index == 0:
            scores = square_scores(model, squares, run.per_device_eval_batch_size)
            tests[name] = (reconstructions(model, source, args.test_masks), scores)
    if run.process_index:
        return
    steps = f"{run.max_steps:,} of {run.examples_per_step:,} masks"
    settings = {"source": as_dict(args.source, "source")["name"], "steps": steps}
    settings["codes"] = f"{model.config.codebook_size}, {model.config.grid_size**2} to a mask"
    credits = any(spec.get("name") == "emoji" for spec, _ in tested.values())
    mask_report(run, tests, settings, credits)


if __name__ == "__main__":
    main()
