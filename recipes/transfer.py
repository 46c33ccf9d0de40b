"""Stage 3: fine-tune a checkpoint on one task, the built-in ones or your own data.

    python -m openpali.recipes.transfer --config recipes/configs/transfers/count.yaml
    accelerate launch -m openpali.recipes.transfer --config recipes/configs/transfers/jsonl.yaml --data my.jsonl

Each line of my.jsonl is an object such as {"image": "dog.png", "prefix": "what is this?", "suffix": "a dog"}.
Any PaLI-3 or PaliGemma checkpoint can be the start; `--peft lora`, `qlora` or `dora` trains adapters beside it.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from transformers import PreTrainedModel, set_seed

from openpali.data.collator import Collator
from openpali.data.mixture import TaskDataset
from openpali.modeling.dropout import set_text_dropout
from openpali.modeling.processing_paligemma import PaliGemmaProcessor
from openpali.recipes.adapters import AdapterArguments, check_start
from openpali.recipes.arguments import RunArguments, command, parse
from openpali.recipes.config_file import ConfigError, as_dict
from openpali.recipes.feature_cache import Mode, cached_features
from openpali.recipes.resolution import load_resized, resolution_keys
from openpali.recipes.run_data import (
    make_task,
    skip_log,
    splits,
    task_data,
    tell_long_texts,
    tell_skipped,
)
from openpali.recipes.run_folder import open_run
from openpali.recipes.trainer import run_length, run_training
from openpali.recipes.validation import Validation, final_report


@dataclass
class TransferArguments:
    """What is particular to a transfer."""

    model: str | None = field(default=None, metadata={"help": "checkpoint to start from"})
    source: dict | str | None = field(default=None, metadata={"help": "records: name and options"})
    data: str | None = field(default=None, metadata={"help": "your JSONL file, in place of the source"})
    image_root: str | None = field(default=None, metadata={"help": "folder of the JSONL's images; its own if unset"})
    task: dict | str | None = field(default=None, metadata={"help": "name and options; plain for a JSONL file"})
    max_length: int | None = field(default=None, metadata={"help": "tokens of a prompt; longer ones are cut"})
    suffix_max_length: int | None = field(default=None, metadata={"help": "tokens of a target, likewise"})
    resolution: int | None = field(
        default=None, metadata={"help": "side of the pictures in pixels; the model's if unset"}
    )
    resolutions: dict | str | None = field(
        default=None, metadata={"help": "size in pixels: the keys that differ there, as in 448: {learning_rate: 3e-6}"}
    )
    exact_pictures: bool = field(
        default=False, metadata={"help": "resize as for evaluation, slower and equal to the last of 255 levels"}
    )
    num_beams: int = field(default=1, metadata={"help": "of the answers that are scored; 1 is greedy"})
    text_dropout: float | None = field(default=None, metadata={"help": "of the text model; the model's own if unset"})
    label_smoothing: float | None = field(default=None, metadata={"help": "of the loss; the model's if unset"})
    attention: Literal["eager", "sdpa", "flex_attention"] | None = field(
        default=None, metadata={"help": "how the text model attends; its default if unset"}
    )
    pack_length: int | None = field(
        default=None, metadata={"help": "PaliGemma: tokens of a row into which several examples are packed"}
    )
    prefix_attention: Literal["full", "causal", "causal_all"] | None = field(
        default=None,
        metadata={"help": "PaliGemma: full is prefix-LM; causal or causal_all (images too) for comparison"},
    )
    loss_on_prefix: bool = field(default=False, metadata={"help": "PaliGemma: train on the prompt too, to compare"})
    feature_cache: Mode = field(
        default="auto",
        metadata={"help": "keep a frozen image encoder's features on disk: auto where it pays, on, or off"},
    )
    max_bad_share: float = field(default=0.1, metadata={"help": "records that may turn out bad while training"})
    test_limit: int = field(default=512, metadata={"help": "test examples at the end"})
    dtype: Literal["auto", "float32", "bfloat16"] = field(
        default="auto",
        metadata={"help": "of the weights; auto is float32, under adapters bfloat16 on GPUs"},
    )

    def __post_init__(self):
        self.source, self.task = as_dict(self.source, "source"), as_dict(self.task, "task")
        if self.data:
            self.source = {"name": "jsonl", "path": self.data, "image_root": self.image_root}
        if not self.source:
            raise ConfigError("there is no data: give --data my.jsonl, or source in the configuration")
        if self.source.get("name") == "jsonl" and self.task.get("name") != "plain":
            self.task = {"name": "plain"}
        if not self.task:
            raise ConfigError("there is no task: give its name and options in the configuration")
        if not self.model:
            raise ConfigError("there is no model: give --model with the folder or Hub name of a checkpoint")


CLASSES: list[type] = [TransferArguments, AdapterArguments, RunArguments]


@command
def main(argv: list[str] | None = None) -> None:
    """Fine-tune, keep the best weights by the task's metric, and write a report."""
    args, adapters, run = parse(CLASSES, argv, above=resolution_keys(CLASSES, argv))
    checkpoint = open_run(run)

    source, task = as_dict(args.source, "source"), make_task(as_dict(args.task, "task"))
    parts = splits(source, run)
    train = task_data(parts["train"], task, run, args.max_bad_share)
    options: dict[str, Any] = {"skip_log": skip_log(run), "max_bad_share": args.max_bad_share}
    data = {name: TaskDataset(parts[name], task, run.seed, **options) for name in ("validation", "test")}

    set_seed(run.seed)
    processor, model = load_resized(check_start(args.model), args.resolution, adapters, args.dtype, run)
    set_regularisation(model, args)
    set_attention(model, processor, args, run)
    if source["name"] in ("jsonl", "video"):
        tell_long_texts(source["path"], processor.tokenizer, args.max_length, args.suffix_max_length, run)
    limits = {"max_length": args.max_length, "suffix_max_length": args.suffix_max_length}
    limits |= {"pack_length": args.pack_length}
    collator = Collator(processor, **limits, loss_on_prefix=args.loss_on_prefix, exact_pictures=args.exact_pictures)
    fit_batch(run, run_length(train))
    train, collator = cached_features(args.feature_cache, model, train, collator, run)

    batch = run.per_device_eval_batch_size
    validation = Validation({task.name: data["validation"]}, processor, batch, run.eval_limit, args.num_beams)
    best = validation.chief_metric()
    run_training(model, processor, run, train, collator, validation, best, resume_from=checkpoint)

    test = Validation({task.name: data["test"]}, processor, batch, args.test_limit, args.num_beams)
    settings = {"checkpoint": run.folder, "started from": args.model, "task": args.task, "source": args.source}
    final_report(model, test, run, f"Transfer to {task.name}", settings)
    tell_skipped(run)
    for which, count in processor.truncation_counts.items() if run.dataloader_num_workers == 0 else ():
        run.say(f"{count} times a {which} was cut to its limit while training")


def set_regularisation(model: PreTrainedModel, args: TransferArguments) -> None:
    """Label smoothing and dropout, where they are given.

    Raises:
        ConfigError: a dropout that is no probability.
    """
    if args.label_smoothing is not None:
        model.config.label_smoothing = args.label_smoothing
    if args.text_dropout is not None:
        try:
            set_text_dropout(model, args.text_dropout)
        except ValueError as error:
            raise ConfigError(str(error)) from error


def set_attention(model: PreTrainedModel, processor: Any, args: TransferArguments, run: RunArguments) -> None:
    """Choose the attention back-end, and for PaliGemma what sees what.

    Raises:
        ConfigError: if the model or the device has no such attention.
    """
    if not isinstance(processor, PaliGemmaProcessor):
        if args.pack_length or args.prefix_attention or args.loss_on_prefix:
            raise ConfigError(
                f"pack_length, prefix_attention and loss_on_prefix are PaliGemma's; {args.model} reads its prompt in"
                " an encoder: leave them out"
            )
    elif args.prefix_attention:
        processor.prefix_attention = args.prefix_attention
    if args.attention == "flex_attention" and run.device.type == "cpu":
        raise ConfigError("attention: flex_attention cannot train on CPUs; leave it out, or take sdpa or eager")
    if args.attention:
        try:
            model.set_attn_implementation({"text_config": args.attention})
        except ValueError as error:
            raise ConfigError(f"attention: {str(error).split('. ')[0]}") from error


def fit_batch(run: RunArguments, examples: int | None) -> None:
    """A batch larger than the data, where its length is known, would hold every example several times."""
    if examples is not None and run.per_device_train_batch_size > examples:
        run.say(f"The batch of {run.per_device_train_batch_size} is larger than the data: {examples} instead")
        run.per_device_train_batch_size = examples


if __name__ == "__main__":
    main()
