"""The baseline of stage 0: the same image encoder, trained to classify images.

    openpali classification --config siglip/nano-36-classification

PaLI's earlier encoders were trained by classification, PaLI-3's by SigLIP, and the paper's first contribution is that
comparison (section 4.1): classification is ahead in linear probes, SigLIP in most of what the PaLI model does. Stage 1
takes either encoder with `--vision_checkpoint`.

The result is Transformers' `SiglipForImageClassification`, so `pipeline("image-classification")` loads it. It
classifies the mean of the image tokens, where SigLIP pools by attention; the transformer itself is the same. With
`patch_sizes` each step draws the size of its patches, as in FlexiViT.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal, cast

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import (
    PreTrainedModel,
    SiglipConfig,
    SiglipForImageClassification,
    SiglipImageProcessorPil,
    set_seed,
)

from openpali.data.example import Example
from openpali.data.files.config import ConfigError, as_dict
from openpali.data.mixture import TaskDataset
from openpali.data.sources import Source
from openpali.modeling.initial_weights import draw_siglip
from openpali.modeling.modeling_siglip import siglip_preset
from openpali.recipes.flexible.images import DrawnPatches, SquareImages, at_drawn_patch_size
from openpali.recipes.flexible.step_draw import StepDraw
from openpali.recipes.flexible.towers import set_patches
from openpali.recipes.publishing.card import write_card
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.run.command_line import command, parse
from openpali.recipes.run.datasets import load_splits, make_dataset, report_skipped, skip_log
from openpali.recipes.run.resume import open_run
from openpali.recipes.stages.dense_patches import frequent_names
from openpali.recipes.stages.task_bases import EncoderTask
from openpali.recipes.training.trainer import Loss, run_training
from openpali.recipes.training.validation_loss import held_out_loss


@dataclass
class ClassificationArguments:
    """Arguments of this stage alone."""

    source: dict | str | None = field(default=None, metadata={"help": "images with objects: name and options"})
    language: str = field(default="en", metadata={"help": "language of the objects' names, which are the classes"})
    classes: list[str] = field(
        default_factory=list, metadata={"help": "names of the classes; those of the records when empty"}
    )
    classes_records: int = field(default=20_000, metadata={"help": "records that classes are read from"})
    most_classes: int = field(
        default=30_000, metadata={"help": "number of classes, the most frequent ones; other objects are ignored"}
    )
    preset: str = field(
        default="nano", metadata={"help": "size of the image tower: nano, s16, b16, l16, so400m14, ..."}
    )
    vision_config: dict | str | None = field(default=None, metadata={"help": "changes to the preset's"})
    patch_sizes: list[int] = field(
        default_factory=list, metadata={"help": "one drawn for each step, as in FlexiViT; in pixels"}
    )
    loss: Literal["sigmoid", "softmax"] = field(
        default="sigmoid", metadata={"help": "a binary loss for every class, or one distribution over all classes"}
    )
    best_metric: str = field(
        default="accuracy", metadata={"help": "share of images whose most probable class is right"}
    )

    def __post_init__(self):
        self.source = as_dict(self.source, "source") or {"name": "emoji", "split": "train"}
        self.vision_config = as_dict(self.vision_config, "vision_config")


@dataclass
class ClassificationRun(RunArguments):
    """Defaults of contrastive training, so that both use the same optimizer."""

    adam_beta2: float = field(default=0.95, metadata={"help": "Adam's second-moment decay"})
    decay: list[str] = field(
        default_factory=lambda: ["vision_model", "classifier"], metadata={"help": "components whose matrices decay"}
    )


@dataclass(frozen=True)
class Naming(EncoderTask):
    """A task: an image and the names of its objects, in `meta["names"]`."""

    language: str = "en"
    name: str = "naming"

    def example(self, record: dict[str, Any], rng: random.Random) -> Example | None:
        """The image with the names of its objects; None without a name."""
        names = {item["names"][self.language] for item in record["objects"] if self.language in item["names"]}
        if not names:
            return None
        return Example(record["id"], self.name, (record["image"],), "", meta={"names": sorted(names)})


class NamingCollator:
    """Collates examples of `Naming` into pixels and classes.

    Args:
        images: makes inputs of the images of examples.
        classes: in the order of the model's outputs.
    """

    def __init__(self, images: SquareImages, classes: Sequence[str]):
        self.images, self.by_step = images, images.by_step
        self.number = {name: i for i, name in enumerate(classes)}

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        """`pixel_values`: float[n, 3, H, W] in [-1, 1], `classes`: float[n, C], 1 for those of the image."""
        classes = torch.zeros(len(examples), len(self.number))
        for row, example in zip(classes, examples):
            row[[self.number[name] for name in example.meta["names"] if name in self.number]] = 1
        return self.images(examples) | {"classes": classes}


def sigmoid_naming_loss(model: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Binary cross-entropies, summed over classes and averaged over images."""
    logits = model(pixel_values=inputs["pixel_values"]).logits
    return binary_cross_entropy_with_logits(logits, inputs["classes"], reduction="sum") / len(logits)


def softmax_naming_loss(model: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Cross-entropy with a target spread evenly over the image's classes; an image without a class adds 0."""
    logits, classes = model(pixel_values=inputs["pixel_values"]).logits, inputs["classes"]
    shares = classes / classes.sum(1, keepdim=True).clamp(min=1)
    return -(shares * logits.log_softmax(-1)).sum() / len(logits)


LOSSES: dict[str, Loss] = {"sigmoid": sigmoid_naming_loss, "softmax": softmax_naming_loss}


@torch.no_grad()
def naming_scores(
    model: nn.Module, collator: NamingCollator, examples: Sequence[Example], batch_size: int
) -> dict[str, float]:
    """`accuracy`: share of images whose most probable class is right; `top_5`: one of the five most probable is."""
    first, fifth = [], []
    device = next(model.parameters()).device
    for start in range(0, len(examples), batch_size):
        batch = collator(examples[start : start + batch_size])
        logits = model(pixel_values=batch["pixel_values"].to(device)).logits.cpu()
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices
        right = batch["classes"].gather(1, best).bool()
        first += right[:, 0].tolist()
        fifth += right.any(1).tolist()
    return {"accuracy": fmean(first), "top_5": fmean(fifth)}


def make_config(args: ClassificationArguments, classes: Sequence[str]) -> SiglipConfig:
    """Configuration of an encoder of the preset's size with a classifier."""
    try:
        vision = siglip_preset(args.preset)["vision_config"]
    except ValueError as error:
        raise ConfigError(f"preset: {error}") from error
    vision |= as_dict(args.vision_config, "vision_config") | {"vision_use_head": False}
    names: Any = dict(enumerate(classes))
    return SiglipConfig(vision_config=vision, id2label=names, label2id={name: i for i, name in names.items()})


def make_model(args: ClassificationArguments, classes: Sequence[str]) -> SiglipForImageClassification:
    """A new encoder of the preset's size; with the sigmoid loss, each of C classes starts at a probability of 1/C."""
    model = SiglipForImageClassification(make_config(args, classes))
    draw_siglip(model)
    if args.loss == "sigmoid":
        model.classifier.bias.data.fill_(-math.log(max(1, len(classes) - 1)))  # pyright: ignore
    set_patches(model, None, args.patch_sizes, None)
    return model


def make_classes(args: ClassificationArguments, source: Source) -> list[str]:
    """The given classes, or those of the first records."""
    return args.classes or frequent_names(source, args.language, args.classes_records, args.most_classes)


@command
def main(argv: list[str] | None = None) -> None:
    """Train an image encoder to classify images."""
    args, run = parse([ClassificationArguments, ClassificationRun], argv)
    checkpoint = open_run(run, vars(args))

    splits = load_splits(as_dict(args.source, "source"), run)
    train = make_dataset(splits["train"], Naming(args.language), run)
    validation = TaskDataset(splits["validation"], Naming(args.language), run.seed, skip_log(run), split="validation")
    classes = make_classes(args, splits["train"])

    set_seed(run.seed)
    model = make_model(args, classes)
    side = int(cast(int, model.vision_model.config.image_size))
    processor: Any = SiglipImageProcessorPil(size={"height": side, "width": side})
    draw = StepDraw("patch_sizes", tuple(args.patch_sizes), run.seed) if args.patch_sizes else None
    collator = NamingCollator(DrawnPatches(processor, draw) if draw else SquareImages(processor), classes)
    held_out = [validation[i] for i in range(min(run.eval_limit, len(validation)))]
    run.say(f"{len(classes):,} classes")

    def evaluate(model: PreTrainedModel) -> dict[str, float]:
        batch = run.per_device_eval_batch_size
        loss = held_out_loss(model, held_out, collator, batch, LOSSES[args.loss])
        return naming_scores(model, collator, held_out, batch) | {"loss": loss}

    loss = at_drawn_patch_size(LOSSES[args.loss])
    run_training(model, processor, run, train, collator, evaluate, args.best_metric, loss, checkpoint)
    write_card(run)
    report_skipped(run)
    run.say(f"Next, stage 1: openpali pretrain with --vision_checkpoint {run.folder}")


if __name__ == "__main__":
    main()
