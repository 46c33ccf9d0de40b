"""Arguments of the recipes: dataclasses filled from one YAML file and from `--key value` overrides."""

import argparse
import functools
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_type_hints

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.utils.logging import disable_progress_bar

from openpali.data.files.config import (
    ConfigError,
    as_dict,
    find_config,
    nearest,
    number,
    read_value,
    read_yaml,
)
from openpali.data.files.renamed import current_options
from openpali.data.files.run_folders import CONFIG_HEADER
from openpali.modeling import user_errors
from openpali.modeling.checkpoints import INCOMPLETE_HELP
from openpali.recipes.run.number_checks import check_numbers
from openpali.recipes.run.precision import check_options

Schedule = Literal["cosine", "rsqrt", "constant"]
OnBadLoss = Literal["stop", "skip"]
NOT_GIVEN = object()


@dataclass
class RunArguments(TrainingArguments):
    """What every stage has: Transformers' `TrainingArguments`, and the papers' choices beside them.

    `weight_decay` is torch AdamW's, multiplied by the learning rate: the papers' 1e-6 at learning rate
    1e-5 is 0.1 here. It touches only the matrices of the components in `decay`, and `lr_multipliers` do
    not change it.
    """

    schedule: Schedule = field(default="cosine", metadata={"help": "cosine to 0, rsqrt, or constant"})
    cooldown_steps: float = field(
        default=0.0, metadata={"help": "last steps (below 1: share of the run) in which rsqrt falls to 0"}
    )
    rsqrt_timescale: int = field(default=10_000, metadata={"help": "steps after which rsqrt is 0.71"})
    lr_multipliers: dict | str | None = field(
        default=None, metadata={"help": "component: factor on its learning rate, as in {vision_tower: 0.1}"}
    )
    freeze: list[str] = field(default_factory=list, metadata={"help": "components that do not train"})
    decay: list[str] = field(
        default_factory=lambda: ["vision_tower", "projector", "multi_modal_projector"],
        metadata={"help": "components whose matrices decay"},
    )
    eval_limit: int = field(default=256, metadata={"help": "validation examples while training"})
    tensorboard: bool = field(default=True, metadata={"help": "write TensorBoard events into output_dir"})
    resume: str | None = field(
        default=None,
        metadata={
            "help": "auto: the last complete checkpoint; a checkpoint folder; none: start anew."
            " Left out, a run with the same configuration goes on and any other one is refused."
        },
    )
    overwrite: bool = field(default=False, metadata={"help": "remove what an earlier run left in output_dir"})
    on_bad_loss: OnBadLoss = field(
        default="stop",
        metadata={"help": "a loss that is not finite, or a spike: stop, or skip the step; its batch is kept"},
    )
    loss_spike: float = field(
        default=0.0, metadata={"help": "a loss above this factor times the running median is bad; 0 for any"}
    )
    bad_loss_limit: int = field(default=10, metadata={"help": "steps that may be skipped before the run stops"})
    halve_on_out_of_memory: bool = field(
        default=False, metadata={"help": "compute micro-batches in parts where they do not fit; the batch stays"}
    )
    # Transformers' defaults that these recipes change
    logging_steps: float = field(default=10, metadata={"help": "steps between two log lines"})
    save_total_limit: int | None = field(default=2, metadata={"help": "checkpoints kept"})
    use_cache: bool = field(default=True, metadata={"help": "saved with the model, for generation"})
    report_to: None | str | list[str] = field(default="none", metadata={"help": "further trackers"})
    dataloader_pin_memory: bool = field(default=False, metadata={"help": "pin batches for a GPU"})
    remove_unused_columns: bool = field(default=False, metadata={"help": "leave at false"})
    incomplete_checkpoint: bool = field(default=False, metadata={"help": INCOMPLETE_HELP})
    resolved: dict[str, Any] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self):
        if not self.output_dir:
            raise ConfigError("output_dir is missing: say where the run is to be kept, for instance outputs/run")
        if self.label_smoothing_factor:
            raise ConfigError("label_smoothing_factor smooths the wrong tokens for these models; use label_smoothing")
        if self.resume_from_checkpoint:
            raise ConfigError("use resume (auto, none, or a checkpoint folder), not resume_from_checkpoint")
        if self.load_best_model_at_end:
            raise ConfigError("load_best_model_at_end is always done here: eval_steps turns evaluation on")
        if self.loss_spike and self.loss_spike <= 1:
            raise ConfigError("loss_spike is a factor above 1, such as 5; 0 to let every finite loss pass")
        self.lr_multipliers = as_dict(self.lr_multipliers, "lr_multipliers")
        if self.eval_steps:
            self.eval_strategy = "steps"
        self.use_cpu = self.use_cpu or self.launched_on_cpus()
        try:
            super().__post_init__()
        except ValueError as error:
            remedy = "; or give --bf16 false for float32" if "bf16" in str(error) else ""
            raise ConfigError(str(error).rstrip(".") + remedy) from error
        self.refuse_to_be_alone()
        check_options(self.fp16, self.fp16_full_eval or self.bf16_full_eval, self.device)
        # it would raise the same when everything has been read
        get_reporting_integration_callbacks(self.report_to)
        if self.deepspeed_plugin is not None:
            # models are put together and counted whole; ZeRO-3 cuts them into shards when training begins
            unset_hf_deepspeed_config()

    def refuse_to_be_alone(self) -> None:
        """Raise ConfigError where processes of one launch would each write a run of their own into the same folder."""
        started = os.environ.get("WORLD_SIZE", "")
        if "LOCAL_RANK" in os.environ and started not in ("", "1") and self.world_size == 1:
            raise ConfigError(
                f"the launcher started {started} processes, and on this device ({self.device.type}) they do not find"
                " each other: start one, or give --use_cpu true"
            )

    def launched_on_cpus(self) -> bool:
        """Whether a launcher started this process where there are only CPUs, which Transformers has to be told.

        Half precision is left to its own check: whoever asks for it expects GPUs. So does DeepSpeed.
        """
        deepspeed = self.deepspeed or os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true"
        whole = not (self.bf16 or self.fp16)
        return whole and not deepspeed and "LOCAL_RANK" in os.environ and not torch.accelerator.is_available()

    @property
    def folder(self) -> Path:
        """`output_dir` as a path."""
        return Path(str(self.output_dir))

    def say(self, text: str) -> None:
        """Print on the main process only."""
        if self.process_index == 0:
            print(text, flush=True)

    @property
    def examples_per_step(self) -> int:
        """Examples that one optimizer step sees, on all processes together."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps * self.world_size


def parse(
    classes: Sequence[type],
    argv: Sequence[str] | None = None,
    below: dict[str, Any] | None = None,
    above: dict[str, Any] | None = None,
) -> tuple[Any, ...]:
    """Fill dataclasses from `--config file.yaml` and from overrides behind it.

    `--source.size 64` reaches into a nested value. The last class must be a [`RunArguments`]; it keeps what
    was decided in `resolved`, which `save_config` writes.

    Args:
        classes: dataclasses; no two may share a field.
        argv: the command line without the program's name; `sys.argv[1:]` when left out.
        below: values of keys that neither the file nor the command line gives.
        above: values that count more than the file's, and less than those of the command line.

    Raises:
        ConfigError: for a missing file, an unknown key, a value of the wrong type.
    """
    read = read_values(classes, argv, below, above)
    check_numbers(read.values)
    try:
        built = read.parser.parse_dict(read.values)
    except (ValueError, ImportError) as error:
        # Transformers' own checks, such as bf16 on a device that has none
        raise error if isinstance(error, ConfigError) else ConfigError(user_errors.explain(error)) from error
    built[-1].resolved = resolve(read.values, read.defaults, classes[-1])
    return built


class Values(NamedTuple):
    """Values by key before dataclasses are built of them.

    Attributes:
        values: of every key.
        given: keys that the file, the command line or the caller gives.
        defaults: of the dataclasses.
        parser: which builds them.
    """

    values: dict[str, Any]
    given: set[str]
    defaults: dict[str, Any]
    parser: "Parser"


def read_values(
    classes: Sequence[type],
    argv: Sequence[str] | None = None,
    below: dict[str, Any] | None = None,
    above: dict[str, Any] | None = None,
) -> Values:
    """What `parse` would build dataclasses of; the arguments are the same."""
    argv = list(sys.argv[1:] if argv is None else argv)
    config, argv = take_option(current_options(argv), "--config")
    known = known_keys(classes)
    values = (below or {}) | (read_yaml(find_config(config), known) if config else {}) | (above or {})
    nested, argv = take_nested(argv, known)
    parser = Parser(list(classes), allow_abbrev=False)  # pyright: ignore[reportArgumentType]
    parser.add_argument("--config", help="YAML file, or the name of a shipped one (pali3/nano-pretrain)")
    defaults = {key: parser.get_default(key) for key in known}
    parser.set_defaults(**values)
    for action in parser._actions:
        # `--freeze` alone empties what the file lists
        action.nargs = "*" if action.nargs == "+" else action.nargs
    # in the namespace and not as defaults, which --help shows
    untouched = argparse.Namespace(**{key: NOT_GIVEN for key in known if key not in values})
    namespace, unknown = parser.parse_known_args(argv, untouched)
    if unknown:
        raise ConfigError(f"unknown argument {unknown[0]}{nearest(unknown[0].lstrip('-'), known)}")
    found = {key: value for key, value in vars(namespace).items() if key in known}
    given = {key for key, value in found.items() if value is not NOT_GIVEN} | {key for key, *_ in nested}
    found = {key: defaults[key] if value is NOT_GIVEN else value for key, value in found.items()}
    for key, inner, value in nested:
        found[key] = set_nested(as_dict(found[key], key), inner, value)
    return Values(found, given, defaults, parser)


def known_keys(classes: Sequence[type]) -> dict[str, tuple[Any, Any]]:
    """Field and type of every key that the dataclasses take."""
    known = {}
    for cls in classes:
        hints = get_type_hints(cls)
        known |= {f.name: (f, hints[f.name]) for f in fields(cls) if f.init}
    return known


class Parser(HfArgumentParser):
    """HfArgumentParser whose errors are one sentence and not two pages of usage."""

    def error(self, message: str) -> Any:
        """Called by argparse."""
        raise ConfigError(f"{message} (--help lists every argument)")


def take_option(argv: list[str], option: str) -> tuple[str | None, list[str]]:
    """Split `--option value` or `--option=value` off a command line; the last one counts."""
    value, rest, i = None, [], 0
    while i < len(argv):
        if argv[i] == option:
            if i + 1 == len(argv):
                raise ConfigError(f"{option} needs a value")
            value, i = argv[i + 1], i + 1
        elif argv[i].startswith(option + "="):
            value = argv[i].split("=", 1)[1]
        else:
            rest.append(argv[i])
        i += 1
    return value, rest


def take_nested(argv: list[str], known: dict) -> tuple[list[tuple[str, list[str], Any]], list[str]]:
    """Split `--key.inner value` off a command line, as (key, path below it, value)."""
    found, rest, i = [], [], 0
    while i < len(argv):
        name, _, value = argv[i].partition("=")
        if not (name.startswith("--") and "." in name):
            rest.append(argv[i])
            i += 1
            continue
        if "=" not in argv[i]:
            if i + 1 == len(argv):
                raise ConfigError(f"{name} needs a value")
            i, value = i + 1, argv[i + 1]
        key, *inner = name[2:].split(".")
        if key not in known:
            raise ConfigError(f"unknown argument {name}{nearest(key, known)}")
        found.append((key, inner, number(read_value(value, name))))
        i += 1
    return found, rest


def spread(argv: Sequence[str], keys: Sequence[str]) -> list[str]:
    """A command line in which `--task '{codec: X}'` is `--task.codec X`: without a name it changes what there is."""
    rest: list[str] = list(argv)
    for key in keys:
        value, others = take_option(rest, f"--{key}")
        changes = as_dict(value, key) if value else {}
        if value and "name" not in changes:
            added = [part for name, one in changes.items() for part in (f"--{key}.{name}", json.dumps(one))]
            rest = [*others, *added]
    return rest


def set_nested(tree: dict, path: list[str], value: Any) -> dict:
    """A copy of `tree` in which the value below `path` is `value`."""
    if len(path) == 1:
        return tree | {path[0]: value}
    inner = tree.get(path[0])
    return tree | {path[0]: set_nested(inner if isinstance(inner, dict) else {}, path[1:], value)}


def resolve(given: dict[str, Any], defaults: dict[str, Any], run_class: type) -> dict[str, Any]:
    """Every value of our own fields; of Transformers' those whose default is ours or that were given."""
    inherited = {f.name: f.default for f in fields(TrainingArguments)}
    ours = {f.name for f in fields(run_class) if f.name in inherited and f.default != inherited[f.name]}
    return {k: v for k, v in given.items() if k not in inherited or k in ours or v != defaults[k]}


def save_config(path: Path, run: RunArguments) -> None:
    """Write the resolved configuration; `--config` reads it again."""
    # whether and how to go on is of one command, not of the run
    content = {k: v for k, v in run.resolved.items() if k not in ("resume", "overwrite")}
    path.write_text(CONFIG_HEADER + yaml.safe_dump(content, sort_keys=False, allow_unicode=True), "utf-8")


def command(main: Callable[..., Any]) -> Callable[..., Any]:
    """Let `main` end with one sentence for a mistake that its user can mend, instead of a traceback."""

    @user_errors.command("error")
    @functools.wraps(main)
    def run(argv: list[str] | None = None) -> Any:
        # one for every checkpoint that is written would drown the progress of the run
        disable_progress_bar()
        logging.getLogger("transformers.configuration_utils").addFilter(worth_showing)
        return main(argv)

    return run


def worth_showing(record: logging.LogRecord) -> bool:
    """Whether to show a message: SigLIP's default text tower, which others are compared with, has ids out of range."""
    return "49406" not in record.getMessage() and "49407" not in record.getMessage()
