"""Stage 1 (and 2): the multimodal mixture, in front of an image encoder of stage 0 (PaLI-3 section 3.2).

    python -m openpali.recipes.pretrain --config recipes/configs/pali3/nano-pretrain.yaml

Stage 1 starts from `vision_checkpoint`, with its image encoder frozen and the text model new; stage 2, and any
going on, starts from `model`. A line of `mixture` names a task, its weight, and a source of its own if it has one.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import (
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    set_seed,
)

from openpali import Pali3Config, Pali3ForConditionalGeneration, Pali3Processor
from openpali.data.collator import Collator
from openpali.data.mixture import TaskDataset
from openpali.data.sources import Source
from openpali.data.streaming import TaskStream
from openpali.modeling.configuration_pali3 import vision_config_of
from openpali.modeling.location_tokens import LOCATION_BINS, location_token
from openpali.recipes.arguments import RunArguments, command, parse
from openpali.recipes.config_file import ConfigError, as_dict
from openpali.recipes.run_data import check_folder, make_task, mixed_data, skip_log, splits, task_data, tell_skipped
from openpali.recipes.run_folder import open_run
from openpali.recipes.trainer import run_training
from openpali.recipes.validation import Validation, final_report

VOCABULARY_MULTIPLE = 64


@dataclass
class PretrainArguments:
    """What is particular to stages 1 and 2."""

    source: dict | str | None = field(default=None, metadata={"help": "pictures of tasks without their own"})
    mixture: dict | str | None = field(
        default=None, metadata={"help": "name: {task: {...}, weight: 1.0 or size, source: {...}}"}
    )
    temperature: float = field(
        default=1.0, metadata={"help": "weights are taken to the power of 1 / temperature; above 1 evens them out"}
    )
    evaluate: list[str] = field(
        default_factory=list, metadata={"help": "lines of the mixture to score; all when empty"}
    )
    best_on: str | None = field(default=None, metadata={"help": "the line whose metric picks the best weights"})
    vision_checkpoint: str | None = field(default=None, metadata={"help": "SigLIP model of stage 0"})
    model: str | None = field(default=None, metadata={"help": "checkpoint to go on from instead"})
    preset: str = field(default="nano", metadata={"help": "size of the text model"})
    model_config: dict | str | None = field(default=None, metadata={"help": "changes to the preset's"})
    ordered_locations: bool = field(
        default=False, metadata={"help": "start location tokens as sines of their coordinates, not at random"}
    )
    max_length: int | None = field(default=None, metadata={"help": "tokens of a prompt"})
    suffix_max_length: int | None = field(default=None, metadata={"help": "tokens of a target"})
    test_limit: int = field(default=256, metadata={"help": "test examples of each line at the end"})

    def __post_init__(self):
        self.source = as_dict(self.source, "source") or {"name": "emoji", "split": "train"}
        self.mixture = as_dict(self.mixture, "mixture")
        self.model_config = as_dict(self.model_config, "model_config")
        for name, line in self.mixture.items():
            unknown = set(line) - {"task", "weight", "source"} if isinstance(line, dict) else {line}
            if unknown or "task" not in line:
                raise ConfigError(f"mixture: {name} must be {{task: {{...}}, weight: ..., source: {{...}}}}")
        if not self.mixture:
            raise ConfigError("mixture is empty: name at least one task")
        for name in [*self.evaluate, *([self.best_on] if self.best_on else [])]:
            if name not in self.mixture:
                raise ConfigError(f"{name} is not a line of the mixture: {', '.join(self.mixture)}")


def make_processor(vision: str) -> Pali3Processor:
    """The tokenizer and image processor of stage 0, as PaLI-3 uses them."""
    processor = Pali3Processor.from_backbones(vision, vision)
    names = ["input_ids", "attention_mask"]
    processor.tokenizer.model_input_names = processor.tokenizer.init_kwargs["model_input_names"] = names
    return processor


def from_stage_0(args: PretrainArguments) -> tuple[Pali3ForConditionalGeneration, Pali3Processor]:
    """A model of the preset around the image encoder of `vision_checkpoint`."""
    vision = check_folder(args.vision_checkpoint, "vision_checkpoint")
    vision_config = vision_config_of(vision)
    processor = make_processor(vision)
    rows = -(-len(processor.tokenizer) // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    changes = as_dict(args.model_config, "model_config")
    text_config = Pali3Config.from_preset(args.preset, vocab_size=rows).text_config
    changes["text_config"] = text_config.to_dict() | changes.get("text_config", {})
    config = Pali3Config.from_preset(
        args.preset, image_token_id=processor.image_token_id, vision_config=vision_config.to_dict(), **changes
    )
    model = Pali3ForConditionalGeneration(config)
    trained = AutoModel.from_pretrained(vision, dtype="float32")
    tower = trained.vision_model if trained.config.model_type == "siglip" else trained
    weights = {name: w for name, w in tower.state_dict().items() if not name.startswith("head.")}
    model.model.encoder.vision_tower.load_state_dict(weights)
    if args.ordered_locations:
        order_locations(model, processor.tokenizer)
    return model, processor


@torch.no_grad()
def order_locations(model: Pali3ForConditionalGeneration, tokenizer: Any) -> None:
    """Start location tokens so that near coordinates are alike; a step for one of them then moves its neighbours."""
    ids = tokenizer.convert_tokens_to_ids([location_token(i / (LOCATION_BINS - 1)) for i in range(LOCATION_BINS)])
    table: Any = model.get_input_embeddings()
    rates = math.pi * 2.0 ** torch.linspace(-1, 4, table.weight.shape[1] // 2)
    angles = torch.linspace(0, 1, LOCATION_BINS).unsqueeze(1) * rates
    sines = math.sqrt(2) * torch.cat([angles.sin(), angles.cos()], dim=1)
    table.weight[ids] = sines
    if not model.config.tie_word_embeddings:
        model.lm_head.weight[ids] = sines * sines.shape[1] ** -0.5


def make_datasets(
    args: PretrainArguments, run: RunArguments
) -> tuple[dict[str, TaskDataset | TaskStream], dict[str, dict[str, TaskDataset]]]:
    """What to train on, and validation and test data, of every line of the mixture."""
    parts: dict[str, dict[str, Source]] = {}
    train: dict[str, TaskDataset | TaskStream] = {}
    held_out: dict[str, dict[str, TaskDataset]] = {"validation": {}, "test": {}}
    for name, line in as_dict(args.mixture, "mixture").items():
        spec, task = line.get("source", args.source), make_task(line["task"])
        # lines that share a source share its reading
        own = parts.setdefault(str(spec), parts.get(str(spec)) or splits(spec, run))
        train[name] = task_data(own["train"], task, run)
        for part, datasets in held_out.items():
            datasets[name] = TaskDataset(own[part], task, run.seed, skip_log(run))
    return train, held_out


@command
def main(argv: list[str] | None = None) -> None:
    """Train on a mixture of tasks."""
    args, run = parse([PretrainArguments, RunArguments], argv)
    checkpoint = open_run(run)

    train, held_out = make_datasets(args, run)
    weights = {n: line.get("weight", 1.0) for n, line in as_dict(args.mixture, "mixture").items()}
    if run.max_steps <= 0:
        raise ConfigError("max_steps is missing: a mixture has no epochs")
    mixture = mixed_data(train, weights, run, args.temperature)
    for row in mixture.table():
        run.say(f"{row.weight:7.1%}  {row.name}: task {row.task} on {row.source}")

    set_seed(run.seed)
    if args.model:
        model = AutoModelForImageTextToText.from_pretrained(check_folder(args.model, "model"), dtype="float32")
        processor: Any = AutoProcessor.from_pretrained(args.model)
    else:
        model, processor = from_stage_0(args)
    collator = Collator(processor, args.max_length, args.suffix_max_length)

    scored = args.evaluate or list(weights)
    batch = run.per_device_eval_batch_size
    validation = Validation({n: held_out["validation"][n] for n in scored}, processor, batch, run.eval_limit)
    best = validation.chief_metric(args.best_on)
    run_training(model, processor, run, mixture, collator, validation, best, resume_from=checkpoint)

    test = Validation({n: held_out["test"][n] for n in scored}, processor, batch, args.test_limit)
    settings = {"checkpoint": run.folder, "started from": args.model or args.vision_checkpoint}
    final_report(model, test, run, "Stage 1", settings)
    tell_skipped(run)


if __name__ == "__main__":
    main()
