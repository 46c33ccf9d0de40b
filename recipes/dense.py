"""Stage 0b: localised image tokens, so that a small stage 1 learns boxes.

    openpali dense --config pali3/nano-dense

Every patch is classified: cross-entropy over names and background, where the target is the share of the patch that
each object covers, through one linear layer that is not saved. With `boxes` the layer also predicts the box of the
object on a patch, so that a token holds where its object begins and ends. The stage starts from the `SiglipModel` of
stage 0 and saves another one with the same text tower and processor, whose image encoder stage 1 takes.

It departs from PaLI-3, whose image encoder sees whole images and texts only (and 10B of them). Contrastive training
alone leaves tokens that are neither local nor distinct from the background; SigLIP 2 (arXiv 2502.14786) adds dense
losses to SigLIP's for the same reason, there by captions of regions, self-distillation and masked prediction. Boxes
with names are available in small datasets. The text tower is not trained: similarities between images and texts are
lost.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import AutoProcessor, PreTrainedModel, SiglipModel, set_seed

from openpali.data.example import Example
from openpali.data.files.config import as_dict
from openpali.data.mixture import TaskDataset
from openpali.modeling.checkpoints import load_checkpoint, reading
from openpali.recipes.publishing.card import write_card
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.run.checkpoint_name import check_checkpoint
from openpali.recipes.run.command_line import command, parse
from openpali.recipes.run.datasets import load_splits, make_dataset, report_skipped, skip_log
from openpali.recipes.run.resume import open_run
from openpali.recipes.stages.dense_patches import (
    PatchCollator,
    Patches,
    box_ious,
    box_loss,
    frequent_names,
    patch_scores,
)
from openpali.recipes.training.trainer import run_training
from openpali.recipes.training.validation_loss import held_out_loss


@dataclass
class DenseArguments:
    """Arguments of this stage alone."""

    model: str | None = field(default=None, metadata={"help": "SigLIP model of stage 0"})
    source: dict | str | None = field(default=None, metadata={"help": "images with objects: name and options"})
    language: str = field(default="en", metadata={"help": "language of the objects' names"})
    use_masks: bool = field(
        default=True, metadata={"help": "cover patches by masks where objects have them, else by boxes"}
    )
    words: bool = field(default=False, metadata={"help": "written words with boxes are objects too"})
    boxes: float = field(
        default=0.0, metadata={"help": "weight of the error of each patch's box, in image sides; 0 for labels alone"}
    )
    names: list[str] = field(
        default_factory=list, metadata={"help": "labels of patches; names in the records when empty"}
    )
    names_records: int = field(default=1000, metadata={"help": "records that names are read from"})
    most_names: int = field(
        default=1000, metadata={"help": "number of names, the most frequent ones; the rest are `other`"}
    )
    best_metric: str = field(
        default="accuracy", metadata={"help": "or patch_accuracy, of patches inside objects alone"}
    )

    def __post_init__(self):
        self.source = as_dict(self.source, "source") or {"name": "emoji", "split": "train"}


@dataclass
class DenseRun(RunArguments):
    """Defaults of stage 0, with everything frozen that patch labels do not depend on."""

    adam_beta2: float = field(default=0.95, metadata={"help": "Adam's second-moment decay"})
    freeze: list[str] = field(
        default_factory=lambda: ["text_model", "logit_scale", "logit_bias"],
        metadata={"help": "components that do not train"},
    )
    decay: list[str] = field(
        default_factory=lambda: ["vision_model", "patch_head"], metadata={"help": "components whose matrices decay"}
    )
    # the pooling head gets no gradient
    ddp_find_unused_parameters: bool | None = field(default=True, metadata={"help": "leave at true"})


class DenseSiglip(SiglipModel):
    """A SigLIP model with a linear layer on its image tokens, for `config.patch_labels` labels and a box."""

    def __init__(self, config: Any):
        super().__init__(config)
        self.patch_head = nn.Linear(config.vision_config.hidden_size, config.patch_labels + 4)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, pixel_values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """float[n, 3, H, W] to logits, float[n, patches, labels], and boxes, float[n, patches, 4]."""
        found = self.patch_head(self.vision_model(pixel_values=pixel_values).last_hidden_state)
        return found[..., :-4], found[..., -4:]


def with_head(model: SiglipModel, labels: int) -> DenseSiglip:
    """A copy of the model with a new linear layer."""
    model.config.patch_labels = labels
    dense = DenseSiglip(model.config)
    dense.load_state_dict(model.state_dict(), strict=False)
    return dense


def without_head(dense: DenseSiglip) -> SiglipModel:
    """A copy of the model without the linear layer, as a stock `SiglipModel`."""
    config: Any = dense.config
    if hasattr(config, "patch_labels"):
        del config.patch_labels
    config.architectures = ["SiglipModel"]
    model = SiglipModel(config)
    model.load_state_dict({key: w for key, w in dense.state_dict().items() if not key.startswith("patch_head.")})
    return model


def dense_loss(model: nn.Module, inputs: dict[str, torch.Tensor], boxes: float = 0.0) -> torch.Tensor:
    """Cross-entropy between predicted labels and covered shares, a mean over patches and images, and `boxes` times
    the error of boxes."""
    logits, predicted = model(inputs["pixel_values"])
    labels = -(inputs["shares"] * logits.log_softmax(-1)).sum(-1).mean()
    return labels + boxes * box_loss(predicted, inputs["boxes"], inputs["covered"]) if boxes else labels


@torch.no_grad()
def dense_scores(
    model: nn.Module, collator: PatchCollator, examples: Sequence[Example], batch_size: int, boxes: bool = False
) -> dict[str, float]:
    """`patch_scores` of a model on examples, and `box_ious` with `boxes`."""
    found = []
    for start in range(0, len(examples), batch_size):
        batch = collator(examples[start : start + batch_size])
        logits, predicted = model(batch["pixel_values"].to(next(model.parameters()).device))
        found.append((logits.cpu(), predicted.cpu(), batch["shares"], batch["boxes"], batch["covered"]))
    logits, predicted, shares, true, covered = (torch.cat(column) for column in zip(*found, strict=True))
    return patch_scores(logits, shares) | (box_ious(predicted, true, covered) if boxes else {})


@command
def main(argv: list[str] | None = None) -> None:
    """Train the image encoder of a SigLIP model patch by patch."""
    args, run = parse([DenseArguments, DenseRun], argv)
    checkpoint = open_run(run, vars(args))

    splits = load_splits(as_dict(args.source, "source"), run)
    task = Patches(args.language, args.use_masks, args.words)
    train = make_dataset(splits["train"], task, run)
    validation = TaskDataset(splits["validation"], task, run.seed, skip_log(run), split="validation")
    names = args.names or frequent_names(
        splits["train"], args.language, args.names_records, args.most_names, args.words
    )

    set_seed(run.seed)
    folder = check_checkpoint(args.model, "model")
    with reading(folder):
        processor = AutoProcessor.from_pretrained(folder)
    siglip: Any = load_checkpoint(SiglipModel, folder, incomplete=run.incomplete_checkpoint, dtype="float32")
    vision: Any = siglip.vision_model.config
    collator = PatchCollator(processor, names, vision.image_size // vision.patch_size)
    model = with_head(siglip, collator.labels)
    held_out = [validation[i] for i in range(min(run.eval_limit, len(validation)))]
    run.say(f"{len(names)} names, {collator.cells} x {collator.cells} patches")

    loss = functools.partial(dense_loss, boxes=args.boxes)

    def evaluate(model: PreTrainedModel) -> dict[str, float]:
        batch = run.per_device_eval_batch_size
        return dense_scores(model, collator, held_out, batch, args.boxes > 0) | {
            "loss": held_out_loss(model, held_out, collator, batch, loss)
        }

    run_training(model, processor, run, train, collator, evaluate, args.best_metric, loss, checkpoint)
    if run.process_index == 0:
        without_head(model).save_pretrained(run.folder)
    write_card(run)
    report_skipped(run)
    run.say(f"Next, stage 1: openpali pretrain with --vision_checkpoint {run.folder}")


if __name__ == "__main__":
    main()
