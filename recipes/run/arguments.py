"""Arguments that every stage has: Transformers' `TrainingArguments` with the papers' choices."""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from tqdm import tqdm
from transformers import TrainingArguments
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from openpali.data.files.config import ConfigError, as_dict
from openpali.data.files.run_folders import CONFIG_HEADER
from openpali.modeling.checkpoints import INCOMPLETE_HELP
from openpali.recipes.run.precision import check_options
from openpali.recipes.run.tracker_names import TENSORBOARD, check_trackers, split_names

Schedule = Literal["cosine", "rsqrt", "constant"]
OnBadLoss = Literal["stop", "skip"]


@dataclass
class RunArguments(TrainingArguments):
    """Arguments of every stage: Transformers' `TrainingArguments` and the papers' choices.

    `weight_decay` is torch AdamW's, multiplied by the learning rate: the papers' 1e-6 at learning rate
    1e-5 is 0.1 here. It applies only to the matrices of the components in `decay`, whatever their
    `lr_multipliers`.
    """

    schedule: Schedule = field(default="cosine", metadata={"help": "cosine to 0, rsqrt, or constant"})
    cooldown_steps: float = field(
        default=0.0, metadata={"help": "steps at the end (below 1: share of the run) in which rsqrt falls to 0"}
    )
    rsqrt_timescale: int = field(default=10_000, metadata={"help": "steps after which rsqrt is 0.71"})
    lr_multipliers: dict | str | None = field(
        default=None, metadata={"help": "component: factor of its learning rate, as in {vision_tower: 0.1}"}
    )
    freeze: list[str] = field(default_factory=list, metadata={"help": "components that do not train, or none"})
    decay: list[str] = field(
        default_factory=lambda: ["vision_tower", "projector", "multi_modal_projector"],
        metadata={"help": "components whose matrices decay"},
    )
    eval_limit: int = field(default=256, metadata={"help": "validation examples while training"})
    tensorboard: bool = field(default=True, metadata={"help": "write TensorBoard events into output_dir"})
    resume: str | None = field(
        default=None,
        metadata={
            "help": "auto: from the last complete checkpoint; a checkpoint folder; none: start anew."
            " If unset, a run with the same configuration resumes and any other one is refused."
        },
    )
    overwrite: bool = field(default=False, metadata={"help": "remove what an earlier run left in output_dir"})
    on_bad_loss: OnBadLoss = field(
        default="stop",
        metadata={"help": "at a loss that is not finite, or a spike: stop, or skip the step; its batch is saved"},
    )
    loss_spike: float = field(
        default=0.0, metadata={"help": "a loss above this factor times the running median is bad; 0 for any"}
    )
    bad_loss_limit: int = field(default=10, metadata={"help": "steps that may be skipped before the run stops"})
    halve_on_out_of_memory: bool = field(
        default=False, metadata={"help": "split micro-batches that do not fit into memory; the batch size stays"}
    )
    # Transformers' defaults that these recipes change
    logging_steps: float = field(default=10, metadata={"help": "steps between two log lines"})
    save_total_limit: int | None = field(default=2, metadata={"help": "checkpoints kept"})
    use_cache: bool = field(default=True, metadata={"help": "saved with the model, for generation"})
    report_to: None | str | list[str] = field(
        default="none", metadata={"help": "trackers beside TensorBoard, one or several: trackio, wandb …"}
    )
    project: str = field(default="openpali", metadata={"help": "of the run in trackio and wandb"})
    dataloader_pin_memory: bool = field(default=False, metadata={"help": "pin batches for a GPU"})
    remove_unused_columns: bool = field(default=False, metadata={"help": "leave at false"})
    incomplete_checkpoint: bool = field(default=False, metadata={"help": INCOMPLETE_HELP})
    resolved: dict[str, Any] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self):
        if not self.output_dir:
            raise ConfigError("output_dir is missing: give the folder of the run, for instance outputs/run")
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
        self.report_to = split_names(self.report_to)
        try:
            super().__post_init__()
        except ValueError as error:
            remedy = "; or give --bf16 false for float32" if "bf16" in str(error) else ""
            raise ConfigError(str(error).rstrip(".") + remedy) from error
        self.check_processes()
        check_options(self.fp16, self.fp16_full_eval or self.bf16_full_eval, self.device)
        self.set_trackers()
        if self.deepspeed_plugin is not None:
            # models are built and counted whole; ZeRO-3 shards them when training begins
            unset_hf_deepspeed_config()

    def set_trackers(self) -> None:
        """Check the trackers before data and model are loaded; TensorBoard's events are written by `RunLog`."""
        names = self.trackers
        check_trackers(names)
        self.tensorboard = self.tensorboard or TENSORBOARD in names
        self.report_to = [name for name in names if name != TENSORBOARD]
        if self.trackio_space_id is None and self.trackio_static_space_id is None:
            # nothing is published that was not asked for
            self.trackio_static_space_id = False

    def check_processes(self) -> None:
        """Raise ConfigError where the processes of a launch would each write a separate run into the same folder."""
        started = os.environ.get("WORLD_SIZE", "")
        if "LOCAL_RANK" in os.environ and started not in ("", "1") and self.world_size == 1:
            raise ConfigError(
                f"the launcher started {started} processes, and on this device ({self.device.type}) they do not find"
                " each other: start one, or give --use_cpu true"
            )

    def launched_on_cpus(self) -> bool:
        """Whether a launcher started this process on a machine with CPUs alone, so that `use_cpu` must be set.

        False with half precision or DeepSpeed, which expect GPUs and have checks of their own.
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
            # above a progress bar, where there is one
            tqdm.write(text)
            sys.stdout.flush()

    @property
    def trackers(self) -> list[str]:
        """The names in `report_to`."""
        return [name for name in split_names(self.report_to) if name != "none"]

    @property
    def examples_per_step(self) -> int:
        """Examples that one optimizer step sees, on all processes together."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps * self.world_size


def save_config(path: Path, run: RunArguments) -> None:
    """Write the resolved configuration; `--config` reads it again."""
    # resume and overwrite belong to a command, not to the run
    content = {k: v for k, v in run.resolved.items() if k not in ("resume", "overwrite")}
    path.write_text(CONFIG_HEADER + yaml.safe_dump(content, sort_keys=False, allow_unicode=True), "utf-8")
