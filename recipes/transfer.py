"""Stage 3: fine-tune a checkpoint on a task, on several, or on your own data.

    openpali transfer --config transfers/count
    openpali transfer --model outputs/nano-located --data my-data --kind detect
    accelerate launch --num_processes 8 -m openpali.recipes.transfer --config transfers/jsonl --data my.jsonl

my-data holds a COCO JSON, a data.yaml of YOLO, a metadata.jsonl, class folders, and so on; kinds are detect, segment,
caption, vqa, classify and ocr. Each line of my.jsonl is an object such as {"image": "dog.png", "prefix": "what is
this?", "suffix": "a dog"}. It starts from any PaLI-3 or PaliGemma checkpoint; `--peft lora`, `qlora` or `dora` trains
adapters.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from transformers import PreTrainedModel, set_seed

from openpali.data.collator import Collator
from openpali.data.custom.dataset import read_custom
from openpali.data.files.config import ConfigError, as_dict
from openpali.data.mixture import TaskDataset
from openpali.data.sources.jsonl_splits import jsonl_source
from openpali.modeling.auto import load_processor
from openpali.modeling.dropout import set_text_dropout
from openpali.recipes.custom_data.data_check import check_data
from openpali.recipes.custom_data.defaults import CustomDataArguments, custom_keys, member_values
from openpali.recipes.custom_data.example_images import EXAMPLES_FILE, draw_examples, some_examples
from openpali.recipes.custom_data.text_lengths import TextLimits
from openpali.recipes.features.cache import Mode, cached_features
from openpali.recipes.publishing.card import write_card
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.run.command_line import command, expand_mappings, parse
from openpali.recipes.run.datasets import keep_mask_tokenizer, report_skipped
from openpali.recipes.run.fingerprint import SETTINGS, fingerprints
from openpali.recipes.run.long_texts import report_long_texts
from openpali.recipes.run.resume import open_run, refuse_other_run
from openpali.recipes.run.sweep import SweepArguments, sweep
from openpali.recipes.stages.answer_length import fit_answer_lengths
from openpali.recipes.stages.transfer_tasks import (
    MixArguments,
    TaskData,
    combine_training_data,
    load_mixture,
    load_task_data,
)
from openpali.recipes.stages.untrained_tokens import warn_of_untrained_tokens
from openpali.recipes.stages.zero_scores import ZeroScores
from openpali.recipes.start.adapters import AdapterArguments, check_start
from openpali.recipes.start.attention import check_attention, check_comparisons, set_text_attention
from openpali.recipes.start.resized_checkpoint import (
    checkpoint_image_size,
    load_resized,
    load_with_tokens,
    resolution_keys,
)
from openpali.recipes.training.trainer import run_length, run_training
from openpali.recipes.training.validation import Validation, final_report

# predictions of each task that a validation prints
SHOWN = 2


@dataclass
class TransferArguments:
    """Arguments of this stage alone."""

    model: str | None = field(default=None, metadata={"help": "checkpoint to start from; nano ships"})
    source: dict | str | None = field(default=None, metadata={"help": "source of the records: name and options"})
    data: str | None = field(
        default=None, metadata={"help": "your data: a folder or file of the kind, or without --kind a JSONL file"}
    )
    image_root: str | None = field(
        default=None, metadata={"help": "folder of the images; found beside the data if unset"}
    )
    task: dict | str | None = field(default=None, metadata={"help": "name and options; plain for a JSONL file"})
    max_length: int | None = field(default=None, metadata={"help": "tokens of a prompt; longer ones are cut"})
    suffix_max_length: int | None = field(default=None, metadata={"help": "tokens of a target; longer ones are cut"})
    resolution: int | None = field(
        default=None, metadata={"help": "side of the images in pixels; the model's if unset"}
    )
    image_tokens: int | None = field(
        default=None, metadata={"help": "most tokens of an image of any aspect ratio (NaFlex); the model's if unset"}
    )
    resolutions: dict | str | None = field(
        default=None, metadata={"help": "size in pixels: keys that differ at it, as in 448: {learning_rate: 3e-6}"}
    )
    exact_images: bool = field(
        default=False, metadata={"help": "resize as in evaluation: slower, exact to one of 255 levels"}
    )
    num_beams: int = field(default=1, metadata={"help": "beams when answers are scored; 1 is greedy"})
    text_dropout: float | None = field(default=None, metadata={"help": "of the text model; the model's if unset"})
    label_smoothing: float | None = field(default=None, metadata={"help": "of the loss; the model's if unset"})
    attention: Literal["eager", "sdpa", "flex_attention"] | None = field(
        default=None, metadata={"help": "attention back-end of the text model; its default if unset"}
    )
    pack_length: int | None = field(
        default=None, metadata={"help": "PaliGemma: tokens of a row of several examples (sequence packing)"}
    )
    prefix_attention: Literal["full", "causal", "causal_all"] | None = field(
        default=None,
        metadata={"help": "PaliGemma: full is prefix-LM; causal or causal_all (images too) for comparison"},
    )
    loss_on_prefix: bool = field(
        default=False, metadata={"help": "PaliGemma: train on the prompt too, for comparison"}
    )
    feature_cache: Mode = field(
        default="auto",
        metadata={"help": "cache features of a frozen image encoder on disk: auto where it saves time, on, or off"},
    )
    max_bad_share: float = field(default=0.1, metadata={"help": "share of bad records above which training stops"})
    test_limit: int = field(default=512, metadata={"help": "test examples for the final report"})
    dtype: Literal["auto", "float32", "bfloat16"] = field(
        default="auto",
        metadata={"help": "of the weights; auto is float32, with adapters bfloat16 on GPUs"},
    )

    def __post_init__(self):
        self.source, self.task = as_dict(self.source, "source"), as_dict(self.task, "task")
        # --kind has set the source already
        if self.data and self.source.get("name") != "custom":
            self.source = jsonl_source(self.data, self.image_root)
        if self.source.get("name") == "jsonl" and self.task.get("name") != "plain":
            self.task = {"name": "plain"}
        if not self.model:
            raise ConfigError("there is no model: give --model with the folder or Hub name of a checkpoint, or nano")


CLASSES: list[type] = [TransferArguments, CustomDataArguments, MixArguments, SweepArguments]
CLASSES += [AdapterArguments, RunArguments]


@command
def main(argv: list[str] | None = None) -> None:
    """Fine-tune once, or with each point of a grid."""
    line = with_default_config(sys.argv[1:] if argv is None else argv)
    read_custom.cache_clear()
    args, custom, mix, grid, adapters, run = configure(line)
    if grid.sweep:
        sweep(grid, run, line, lambda point: fine_tune(*configure(point)), check_finished_run)
    else:
        fine_tune(args, custom, mix, grid, adapters, run)


def check_finished_run(line: list[str]) -> None:
    """Check that a finished run of a grid is the run of this command line.

    Raises:
        ConfigError: its configuration or its data differ.
    """
    args, _, mix, *_, run = configure(line)
    refuse_other_run(run.folder, run, fingerprints(run_inputs(args, mixture_values(args, mix)), run.folder))


def with_default_config(line: list[str]) -> list[str]:
    """Add the shipped configuration for custom data to a command line that names data and no configuration."""
    options = {word.partition("=")[0] for word in line}
    if "--config" in options or not options & {"--kind", "--mix", "--data"}:
        return line
    return ["--config", "transfers/custom" if options & {"--kind", "--mix"} else "transfers/jsonl", *line]


def configure(line: list[str]) -> tuple[Any, ...]:
    """Arguments of a command line, with the values that follow from the resolution and from custom data.

    Raises:
        ConfigError: data or task are missing, or a value is wrong.
    """
    line = expand_mappings(line, ("source", "task"))
    built = parse(CLASSES, line, *custom_keys(CLASSES, line, resolution_keys(CLASSES, line)))
    args, mix = built[0], built[2]
    if not args.source and not mix.mix:
        raise ConfigError("there is no data: give --data and --kind, or source in the configuration")
    if not args.task and not mix.mix:
        raise ConfigError("there is no task: give its name and options in the configuration")
    return built


def fine_tune(
    args: TransferArguments,
    custom: CustomDataArguments,
    mix: MixArguments,
    grid: SweepArguments,
    adapters: AdapterArguments,
    run: RunArguments,
) -> None:
    """Check the data, train, keep the best weights by the task's metric, and write a report."""
    if custom.kind:
        source = as_dict(args.source, "source")
        task, strict = as_dict(args.task, "task"), not custom.train_despite_errors
        check_data(source, task, image_size(args), run, strict, limits=text_limits(args))
    values = mixture_values(args, mix)
    checkpoint = None if custom.check_only else open_run(run, run_inputs(args, values))
    tasks = load_tasks(args, mix, custom, run, values)
    train = combine_training_data(tasks, mix, run)
    folder = check_start(str(args.model))
    save_examples(tasks, folder, args, run)
    if custom.check_only:
        return

    set_seed(run.seed)
    processor, model = load_resized(folder, args.resolution, adapters, args.dtype, run, args.image_tokens)
    fit_answer_lengths(tasks, processor, run)
    untrained = warn_of_untrained_tokens(tasks, model, processor, str(args.model), adapters.peft, run)
    set_regularisation(model, args)
    set_attention(model, processor, args, run)
    limits: dict[str, Any] = {"max_length": args.max_length, "suffix_max_length": args.suffix_max_length}
    for data in tasks.values():
        if data.source["name"] in ("jsonl", "video"):
            # these sources are never streams
            splits = {"train": data.train, "validation": data.validation, "test": data.test}
            report_long_texts(cast(dict[str, TaskDataset], splits), processor.tokenizer, **limits, run=run)
    options: dict[str, Any] = {"pack_length": args.pack_length, "loss_on_prefix": args.loss_on_prefix}
    collator = Collator(processor, **limits, **options, exact_images=args.exact_images)
    limit_batch_size(run, run_length(train))
    train, collator = cached_features(args.feature_cache, model, train, collator, run)

    scoring = {"processor": processor, "batch_size": run.per_device_eval_batch_size, "num_beams": args.num_beams}
    held_out = {name: data.validation for name, data in tasks.items()}
    plain = Collator(processor, args.max_length, args.suffix_max_length, exact_images=args.exact_images)
    losses: dict[str, Any] = {"collators": dict.fromkeys(held_out, plain), "say": run.say}
    options = {"limit": run.eval_limit, "mean": len(tasks) > 1, "examples": SHOWN}
    validation = Validation(held_out, **options, **scoring, **losses)
    watch: dict[str, Any] = {"resume_from": checkpoint, "callbacks": [ZeroScores(validation, run, untrained)]}
    run_training(model, processor, run, train, collator, validation, validation.chief_metric(), **watch)

    test = Validation({name: data.test for name, data in tasks.items()}, limit=args.test_limit, **scoring)
    settings = {"checkpoint": run.folder, "started from": args.model, "task": args.task, "source": args.source}
    settings |= {"mixture of": ", ".join(mix.mix)} if mix.mix else {}
    keep_mask_tokenizer((data.task for data in tasks.values()), run)
    results = final_report(model, test, run, f"Transfer to {', '.join(tasks)}", settings)
    write_card(run, results)
    report_skipped(run)
    for kind, count in processor.truncation_counts.items() if run.dataloader_num_workers == 0 else ():
        run.say(f"{count} times a {kind} was cut to its limit while training")


def mixture_values(args: TransferArguments, mix: MixArguments) -> dict[str, dict[str, Any]]:
    """Values of every key of each configuration of a mixture, by its path; empty without a mixture."""
    return {path: member_values(CLASSES, path, str(args.model), args.resolution) for path in mix.mix}


def run_inputs(args: TransferArguments, mixture: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Sources, tasks and checkpoint of a run, for `open_run`."""
    inputs: dict[str, Any] = {"source": args.source, "task": args.task, "model": args.model}
    for path, values in mixture.items():
        settings = {"source": values["source"], "task": values["task"]}
        inputs[path] = settings | {SETTINGS: settings}
    return inputs


def load_tasks(
    args: TransferArguments,
    mix: MixArguments,
    custom: CustomDataArguments,
    run: RunArguments,
    mixture: dict[str, dict[str, Any]],
) -> dict[str, TaskData]:
    """The tasks to train on, with their data, by name."""
    if not mix.mix:
        source, task = as_dict(args.source, "source"), as_dict(args.task, "task")
        data = load_task_data(source, task, run, args.max_bad_share, mix.examples, args.model)
        return {custom.kind or data.task.name: data}
    for path, values in mixture.items():
        if values["kind"]:
            strict = not (custom.train_despite_errors or values["train_despite_errors"])
            options: dict[str, Any] = {"name": Path(path).stem, "limits": text_limits(args)}
            check_data(values["source"], values["task"], image_size(args), run, strict, **options)
    return load_mixture(mix, run, args.max_bad_share, mixture.__getitem__, args.model)


def text_limits(args: TransferArguments) -> TextLimits:
    """The limits of prompts and targets, with the model's tokenizer, which counts their tokens."""
    return TextLimits(load_processor(check_start(str(args.model))).tokenizer, args.max_length, args.suffix_max_length)


def image_size(args: TransferArguments) -> int | None:
    """Side of the model's images in pixels."""
    return args.resolution or checkpoint_image_size(args.model)


def save_examples(tasks: dict[str, TaskData], folder: str, args: TransferArguments, run: RunArguments) -> None:
    """Write an image that shows some examples as the model sees them."""
    examples, size = some_examples([data.train for data in tasks.values()]), image_size(args)
    if run.process_index > 0 or not examples:
        return
    processor = load_with_tokens(folder, args.image_tokens)
    if size is None and not getattr(processor, "any_aspect_ratio", False):
        return
    limits = {"max_length": args.max_length, "suffix_max_length": args.suffix_max_length}
    path = draw_examples(run.folder / EXAMPLES_FILE, examples, processor, size, **limits)
    run.say(f"{len(examples)} examples as the model sees them: {path}")


def set_regularisation(model: PreTrainedModel, args: TransferArguments) -> None:
    """Set label smoothing and dropout, where they are given.

    Raises:
        ConfigError: the dropout is not a probability.
    """
    if args.label_smoothing is not None:
        model.config.label_smoothing = args.label_smoothing
    if args.text_dropout is not None:
        try:
            set_text_dropout(model, args.text_dropout)
        except ValueError as error:
            raise ConfigError(str(error)) from error


def set_attention(model: PreTrainedModel, processor: Any, args: TransferArguments, run: RunArguments) -> None:
    """Set the attention back-end, and for PaliGemma the attention mask of the prompt.

    Raises:
        ConfigError: the model or the device does not support it.
    """
    options = {"pack_length": args.pack_length, "prefix_attention": args.prefix_attention}
    check_comparisons(str(args.model), processor, **options, loss_on_prefix=args.loss_on_prefix)
    if args.prefix_attention:
        processor.prefix_attention = args.prefix_attention
    check_attention(args.attention, run.device)
    set_text_attention(model, args.attention)


def limit_batch_size(run: RunArguments, examples: int | None) -> None:
    """Lower a batch size above the number of examples, which would repeat examples within a batch."""
    if examples is not None and run.per_device_train_batch_size > examples:
        run.say(f"The batch of {run.per_device_train_batch_size} is larger than the data: {examples} instead")
        run.per_device_train_batch_size = examples


if __name__ == "__main__":
    main()
