"""Stages 1 and 2: the multimodal mixture, at rising resolution, for PaLI-3 and PaliGemma.

    openpali pretrain --config pali3/nano-pretrain
    openpali pretrain --config paligemma/nano-stage1

Stage 1 puts an image encoder of stage 0 (`vision_checkpoint`) in front of a text model (`text_checkpoint`, or a new
one). Stage 2 starts from `model`, the folder of stage 1, with another `image_size`, and continues its
learning-rate schedule. PaLI-3 freezes the image encoder in stage 1 (section 3.2), PaliGemma freezes nothing (section
3.2). An entry of `mixture` gives a task, its weight, and optionally its own source.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from transformers import set_seed

from openpali.data.collator import LIMITS, Collator
from openpali.data.files.config import ConfigError, as_dict
from openpali.data.mixture import TaskDataset
from openpali.data.sources import Source
from openpali.data.streaming.stream import TaskStream
from openpali.recipes.publishing.card import write_card
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.run.command_line import command, parse
from openpali.recipes.run.datasets import (
    check_mask_tokenizer,
    keep_mask_tokenizer,
    load_splits,
    make_dataset,
    make_task,
    mix_datasets,
    report_skipped,
    skip_log,
)
from openpali.recipes.run.number_checks import at_least_one
from openpali.recipes.run.resume import open_run
from openpali.recipes.stages.mixture_log import EntryCollator, EntryTask, MixtureLog, log_mixture
from openpali.recipes.stages.pretrain_learning_rate import (
    ComponentWarmup,
    StageArguments,
    continue_schedule,
    save_stage,
)
from openpali.recipes.stages.pretrain_start import StartArguments, image_setting, load_start
from openpali.recipes.start.attention import check_attention, check_comparisons
from openpali.recipes.training.trainer import run_training
from openpali.recipes.training.validation import Validation, final_report


@dataclass
class PretrainArguments:
    """The mixture of tasks in stages 1 and 2."""

    source: dict | str | None = field(default=None, metadata={"help": "source of entries without their own"})
    mixture: dict | str | None = field(
        default=None,
        metadata={"help": "name: {task: {...}, weight: 1.0 or size, source: {...}, suffix_max_length: ...}"},
    )
    temperature: float = field(
        default=1.0,
        metadata={"help": "weights are raised to the power of 1 / temperature; above 1 they become more equal"},
    )
    evaluate: list[str] = field(
        default_factory=list, metadata={"help": "entries of the mixture to score; all when empty"}
    )
    best_on: str | None = field(default=None, metadata={"help": "the entry whose metric picks the best weights"})
    max_length: int | None = field(default=None, metadata={"help": "tokens of a prompt"})
    suffix_max_length: int | None = field(default=None, metadata={"help": "tokens of a target"})
    exact_images: bool = field(
        default=False, metadata={"help": "resize as Pillow does: slower, differs by one of 255 levels in some pixels"}
    )
    prefix_attention: Literal["full", "causal", "causal_all"] | None = field(
        default=None,
        metadata={"help": "PaliGemma: full is prefix-LM; causal or causal_all (images too) for comparison"},
    )
    loss_on_prefix: bool = field(
        default=False, metadata={"help": "PaliGemma: train on the prompt too, for comparison"}
    )
    test_limit: int = field(default=256, metadata={"help": "test examples of each entry for the final report"})

    def __post_init__(self):
        self.source = as_dict(self.source, "source") or {"name": "emoji", "split": "train"}
        self.mixture = as_dict(self.mixture, "mixture")
        for name, entry in self.mixture.items():
            unknown = set(entry) - {"task", "weight", "source", *LIMITS} if isinstance(entry, dict) else {entry}
            if unknown or "task" not in entry:
                raise ConfigError(
                    f"mixture: {name} must be {{task: {{...}}, weight: ..., source: {{...}}}}, with max_length and"
                    " suffix_max_length where they differ from the common ones"
                )
            at_least_one({f"mixture.{name}.{key}": entry.get(key) for key in LIMITS})
        if not self.mixture:
            raise ConfigError("mixture is empty: name at least one task")
        for name in [*self.evaluate, *([self.best_on] if self.best_on else [])]:
            if name not in self.mixture:
                raise ConfigError(f"{name} is not an entry of the mixture: {', '.join(self.mixture)}")


def make_datasets(
    args: PretrainArguments, run: RunArguments
) -> tuple[dict[str, TaskDataset | TaskStream], dict[str, dict[str, TaskDataset]]]:
    """The training data of every entry of the mixture, and its validation and test data by split."""
    loaded: dict[str, dict[str, Source]] = {}
    train: dict[str, TaskDataset | TaskStream] = {}
    held_out: dict[str, dict[str, TaskDataset]] = {"validation": {}, "test": {}}
    for number, (name, entry) in enumerate(as_dict(args.mixture, "mixture").items()):
        spec, task = entry.get("source", args.source), make_task(entry["task"])
        check_mask_tokenizer(task)
        # entries with the same source load it once
        splits = loaded.setdefault(str(spec), loaded.get(str(spec)) or load_splits(spec, run))
        limits = {option: entry[option] for option in LIMITS if option in entry}
        train[name] = make_dataset(splits["train"], EntryTask(task, number, limits), run)
        for split, datasets in held_out.items():
            datasets[name] = TaskDataset(splits[split], task, run.seed, skip_log(run), split=split)
    return train, held_out


@command
def main(argv: list[str] | None = None) -> None:
    """Train on a mixture of tasks."""
    args, start, run = parse([PretrainArguments, StartArguments, StageArguments], argv)
    checkpoint = open_run(run, vars(args) | vars(start))

    train, held_out = make_datasets(args, run)
    weights = {n: entry.get("weight", 1.0) for n, entry in as_dict(args.mixture, "mixture").items()}
    if run.max_steps <= 0:
        raise ConfigError("max_steps is missing: a mixture has no epochs")
    mixture = mix_datasets(train, weights, run, args.temperature)
    log_mixture(mixture.table(), run)

    set_seed(run.seed)
    check_attention(start.attention, run.device)
    model, processor = load_start(start, run.incomplete_checkpoint)
    options = {"prefix_attention": args.prefix_attention, "loss_on_prefix": args.loss_on_prefix}
    check_comparisons(str(start.model or start.family), processor, **options)
    if args.prefix_attention:
        processor.prefix_attention = args.prefix_attention
    continue_schedule(run, start.model)
    save_stage(run)
    lengths: dict[str, Any] = {"max_length": args.max_length, "suffix_max_length": args.suffix_max_length}
    collator = EntryCollator(
        Collator(processor, **lengths, exact_images=args.exact_images, loss_on_prefix=args.loss_on_prefix)
    )

    scored = args.evaluate or list(weights)
    batch = run.per_device_eval_batch_size
    entries = as_dict(args.mixture, "mixture")
    plain: dict[str, Any] = {"processor": processor, "exact_images": args.exact_images}
    limits = {n: {key: entries[n].get(key, getattr(args, key)) for key in LIMITS} for n in scored}
    validation = Validation(
        {n: held_out["validation"][n] for n in scored},
        processor,
        batch,
        run.eval_limit,
        collators={n: Collator(**plain, **limits[n]) for n in scored},
        say=run.say,
    )
    best = validation.chief_metric(args.best_on)
    log = MixtureLog(mixture.table(), run)
    callbacks = [log, ComponentWarmup(run)]
    run_training(
        model,
        processor,
        run,
        mixture,
        collator,
        validation,
        best,
        log.loss,
        resume_from=checkpoint,
        callbacks=callbacks,
    )
    log.report()

    test = Validation({n: held_out["test"][n] for n in scored}, processor, batch, args.test_limit)
    settings = {"checkpoint": run.folder, "started from": start.model or start.vision_checkpoint}
    settings |= image_setting(model, processor)
    results = final_report(model, test, run, f"Stage {2 if start.model else 1}", settings)
    keep_mask_tokenizer((make_task(entry["task"]) for entry in entries.values()), run)
    write_card(run, results)
    report_skipped(run)


if __name__ == "__main__":
    main()
