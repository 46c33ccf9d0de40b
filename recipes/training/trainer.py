"""The trainer of every stage, and `run_training`, which runs it."""

import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, ProcessorMixin, TrainerCallback
from transformers.trainer_callback import PrinterCallback

from openpali.data.files.config import ConfigError
from openpali.data.mixture import TaskDataset
from openpali.data.streaming.stream import ExampleStream
from openpali.eval.answering.load_model import finish_adapters
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.run.precision import check_weights
from openpali.recipes.run.run_folder import BEST_FILE, BEST_FOLDER, UNFINISHED_FOLDER, replace_folder
from openpali.recipes.trackers.runs import TrackersEnd, start_trackers
from openpali.recipes.trackers.tables import SampleTables
from openpali.recipes.training import optimizer as optimization
from openpali.recipes.training.adafactor import Adafactor, adafactor_options
from openpali.recipes.training.bad_data import ErrorCatchingDataset, RecordNamingCollator
from openpali.recipes.training.best_weights import best_row, describe_best, read_best, replaces_best
from openpali.recipes.training.engines import describe_engine, gathered, launch_warnings, set_fsdp_units, unshard
from openpali.recipes.training.learning_rate import run_schedule
from openpali.recipes.training.load_weights import load_into, load_weights
from openpali.recipes.training.progress import LoggedValues, PaddingShare, RunLog, StopRequest, Throughput
from openpali.recipes.training.safe_trainer import SafeTrainer
from openpali.recipes.training.sampling import RunSampler, SteppedDataset, loader_options
from openpali.recipes.training.stream_loader import StreamLoader, load_position, save_position
from openpali.recipes.training.validation import Validation

Loss = Callable[[nn.Module, dict[str, Any]], torch.Tensor]
Evaluate = Callable[[PreTrainedModel], dict[str, float]]


def model_loss(model: nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
    """The loss that the model itself computes, a mean over the examples of the batch."""
    return model(**inputs).loss


class PaliTrainer(SafeTrainer):
    """Transformers' Trainer with the papers' schedules and parameter groups, and with exact resumption.

    Args:
        model: what to train; its frozen parameters have `requires_grad=False` already.
        args: of the run; `max_steps` must be set.
        table: components of the model, see `optimization.components`.
        train_dataset: map-style and deterministic, or a stream of this process.
        data_collator: examples to the model's inputs.
        processing_class: saved with every checkpoint.
        evaluate: scores of the model on validation data, larger is better.
        best_metric: the score by which the best weights are kept.
        loss: mean over the batch, given model and inputs.
        callbacks: additional ones.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: RunArguments,
        table: list[optimization.Component],
        train_dataset: Any,
        data_collator: Callable[[list], Any],
        processing_class: ProcessorMixin | None = None,
        evaluate: Evaluate | None = None,
        best_metric: str | None = None,
        loss: Loss = model_loss,
        callbacks: Sequence[TrainerCallback] = (),
    ):
        self.run_args, self.table, self.data = args, table, train_dataset
        self.scores, self.best_metric, self.loss = evaluate, best_metric, loss
        self.stream: StreamLoader | None = None
        self.by_step = getattr(data_collator, "by_step", False)
        self.run_log = RunLog(args.folder, args.tensorboard)
        # the Trainer would otherwise skip to the position by reading everything before it
        self.restart_data = args.ignore_data_skip
        args.ignore_data_skip = args.ignore_data_skip or isinstance(train_dataset, ExampleStream)
        args.disable_tqdm = True
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            data_collator=RecordNamingCollator(data_collator),
            eval_dataset={} if evaluate else None,
            processing_class=processing_class,
            callbacks=[self.run_log, *callbacks],
        )
        self.pop_callback(PrinterCallback)
        # losses are means over examples, which the Trainer divides by the accumulation steps
        self.model_accepts_loss_kwargs = False
        self.throughput, self.padding = Throughput(args.examples_per_step), PaddingShare()
        self.init_safety()
        warnings = [f"Warning: {text}" for text in launch_warnings(self.accelerator)]
        args.say("\n".join([describe_engine(self.accelerator), *warnings]))
        set_fsdp_units(model, self.accelerator)
        if self.is_fsdp_enabled and any(row.base for row in table):
            raise ConfigError("adapters train with DDP or DeepSpeed: FSDP does not gather their weights")

    def get_train_dataloader(self) -> DataLoader:
        """Batches of the whole run in one pass, see `RunSampler` and `StreamLoader`."""
        args = self.run_args
        if isinstance(self.data, ExampleStream):
            # not prepared by accelerate, which would split again what each process reads for itself
            self.stream = StreamLoader(self.data, args, self.data_collator, self.by_step)
            return self.stream
        # augmentations and drawn modes would otherwise be the same in every epoch
        with_epochs = isinstance(self.data, TaskDataset) and (
            self.data.augmented is not None or getattr(self.data.task, "draws_every_epoch", False)
        )
        order = len(self.data), args.max_steps * args.examples_per_step, args.seed, with_epochs
        loader = DataLoader(
            ErrorCatchingDataset(SteppedDataset(self.data) if self.by_step else self.data),
            sampler=RunSampler(*order, args.examples_per_step if self.by_step else None),
            collate_fn=self.data_collator,
            **loader_options(args),
        )
        return self.accelerator.prepare(loader)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The optimizer that `optim` names, over the table's parameter groups; Adafactor is big_vision's."""
        if self.optimizer is None:
            groups = optimization.parameter_groups(self.table, self.args.learning_rate)
            kind, options = Adafactor, {}
            if self.args.optim == "adafactor":
                options |= adafactor_options(self.args.optim_args)
            else:
                kind, options = self.get_optimizer_cls_and_kwargs(self.args)
            self.optimizer = kind(groups, **options)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LambdaLR:
        """The schedule of the arguments."""
        curve = run_schedule(self.run_args, num_training_steps)
        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, curve)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The recipe's loss; `return_outputs` is for evaluation loops that these recipes do not use."""
        if "token_type_ids" in inputs:
            self.padding.count(inputs)
        return self.check_loss(self.loss(model, inputs))

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """0: the stock estimate visits every parameter at every step."""
        return 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add examples per second, the epoch by examples seen, and the values of the recipe."""
        step = self.state.global_step
        total = run_length(self.data) or self.run_args.max_steps * self.run_args.examples_per_step
        self.state.epoch = step * self.run_args.examples_per_step / total
        if "loss" in logs:
            logs["examples_per_second"] = self.throughput.rate(step)
            if self.padding.positions:
                logs["padding"] = self.padding.share()
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, LoggedValues):
                    logs |= callback.log_values(self.state)
        super().log(logs, start_time)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Score the model, keep its weights if they are the best so far, leave random states untouched."""
        assert self.scores is not None
        assert isinstance(self.model, PreTrainedModel)
        state = random.getstate()
        alike = gathered(self.model, self.accelerator)
        with self.throughput.paused(), torch.random.fork_rng(), torch.no_grad(), alike:
            self.model.eval()
            metrics = {f"eval_{key}": float(value) for key, value in self.scores(self.model).items()}
            self.log(metrics)
            self.keep_best(metrics)
        random.setstate(state)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def keep_best(self, metrics: dict[str, float]) -> None:
        """Save the weights in `best/` if they are the first or better; see `best_weights.replaces_best`.

        Raises:
            ConfigError: the evaluation does not give the metric of the run.
        """
        folder = self.run_args.folder
        row = best_row(self.state.global_step, str(self.best_metric), metrics)
        if not self.broadcast_decision(replaces_best(row, read_best(folder))):
            return
        fresh = folder / UNFINISHED_FOLDER / BEST_FOLDER
        self.empty_unfinished_folder()
        with self.explain_full_disk():
            self.save_model(str(fresh), _internal_call=True)
        if self.args.should_save:
            (fresh / BEST_FILE).write_text(json.dumps(row))
            replace_folder(fresh, folder / BEST_FOLDER)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save and isinstance(self.model, PreTrainedModel):
            finish_adapters(self.model, output_dir or self.run_args.folder)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the recipe writes the card, which Transformers' own would replace in `push_to_hub`."""

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        with self.throughput.paused():
            super()._save_checkpoint(*args, **kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled or not isinstance(self.model, PreTrainedModel):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_weights(self.model, resume_from_checkpoint)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        if self.stream is not None:
            save_position(Path(output_dir), self.stream, self.run_args)
            # the state that makes a checkpoint complete is written by the main process after this
            self.accelerator.wait_for_everyone()

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        if self.stream is not None:
            self.stream.close()
        return super()._finalize_training(*args, **kwargs)

    def _init_training_state(
        self,
        max_steps: int,
        num_update_steps_per_epoch: int,
        num_train_epochs: int,
        resume_from_checkpoint: str | None,
        trial: Any,
    ) -> tuple[int, int]:
        start = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
        )
        self.throughput.restart(self.state.global_step)
        if resume_from_checkpoint is not None:
            self.guard.load(Path(resume_from_checkpoint))
        if self.stream is not None and resume_from_checkpoint is not None:
            if self.restart_data:
                self.run_args.say("The data starts anew: records from before the checkpoint are repeated")
            else:
                load_position(Path(resume_from_checkpoint), self.stream, self.run_args)
        return start


def run_length(data: Any) -> int | None:
    """Number of examples of one epoch; None for a stream of unknown length."""
    return data.length if isinstance(data, ExampleStream) else len(data)


def set_max_steps(args: RunArguments, data: Any) -> None:
    """Derive `max_steps` from the epochs where it is not given. Raises ConfigError for a stream of unknown length."""
    if args.max_steps <= 0:
        length = run_length(data)
        if length is None:
            raise ConfigError("max_steps is missing: a stream has no end; give it, or the source's length in records")
        args.max_steps = max(1, math.ceil(args.num_train_epochs * length / args.examples_per_step))


def run_training(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    args: RunArguments,
    train_dataset: Any,
    collator: Callable[[list], Any],
    evaluate: Evaluate | None = None,
    best_metric: str | None = None,
    loss: Loss = model_loss,
    resume_from: Path | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> PaliTrainer:
    """Freeze, train, load the best weights back, and save them with the processor into `output_dir`.

    Args:
        model: what to train.
        processor: saved with the model.
        args: of the run; `max_steps` is derived from `num_train_epochs` where it is not given.
        train_dataset: map-style data of a known length, or a stream.
        collator: from a list of its items to the model's inputs.
        evaluate: computes validation scores, every `eval_steps` steps and after the last one.
        best_metric: the score that picks the best weights.
        loss: mean over the batch, given model and inputs.
        resume_from: the result of `open_run`.
        callbacks: additional callbacks of Transformers.

    Raises:
        ConfigError: neither `max_steps` nor the length of the data is known; weights in float16.
        SystemExit: with code 130 after Ctrl-C or SIGTERM, once a checkpoint is written.
    """
    table = optimization.components(model, args)
    optimization.freeze(table)
    batch, length = args.examples_per_step, run_length(train_dataset)
    set_max_steps(args, train_dataset)
    if evaluate is None or not args.eval_steps:
        args.eval_strategy = "no"
    stop = StopRequest()
    trainer = PaliTrainer(
        model,
        args,
        table,
        train_dataset,
        collator,
        processor,
        evaluate,
        best_metric,
        loss,
        callbacks=[stop, *callbacks],
    )
    if isinstance(evaluate, Validation):
        trainer.add_callback(SampleTables(evaluate, args, lambda: trainer.run_log.writer))
    trainer.add_callback(TrackersEnd(args))
    start_trackers(args)
    args.say(optimization.format_table(table, args.learning_rate))
    check_weights(optimization.parameter_groups(table, args.learning_rate), trainer.accelerator, args.say)
    epochs = f"{args.max_steps * batch / length:.3g} epochs of {length:,}" if length else "a stream"
    args.say(
        f"{args.max_steps:,} steps of {batch:,} examples, {epochs}; {args.schedule} schedule"
        + (f"; resumed from {resume_from}" if resume_from else "")
    )
    with stop, trainer.explain_full_disk():
        trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    # the main process may still be writing its best weights
    trainer.accelerator.wait_for_everyone()
    folder, step = args.folder, trainer.state.global_step
    if stop.requested and step < args.max_steps:
        args.say(f"Stopped at step {step}. The same command resumes from {folder / f'checkpoint-{step}'}.")
        raise SystemExit(130)
    if read_best(folder) is not None:
        load_into(model, folder / BEST_FOLDER, trainer.accelerator)
        args.say(describe_best(folder))
    trainer.save_final()
    kind = "adapters" if any(row.base for row in table) else "model"
    args.say(f"Saved {kind} and processor to {folder}")
    unshard(model)
    return trainer
