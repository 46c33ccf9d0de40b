"""A Trainer that writes complete checkpoints or none, and handles bad losses, full disks and too little memory."""

import contextlib
import gc
import math
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, Trainer

from openpali.data.files.config import ConfigError
from openpali.modeling.modeling_pali3 import Pali3ForConditionalGeneration
from openpali.modeling.modeling_paligemma import PaliGemmaForConditionalGeneration
from openpali.modeling.token_loss import IGNORE_INDEX
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.run.resume import last_checkpoint
from openpali.recipes.run.run_folder import (
    UNFINISHED_FOLDER,
    disk_is_full,
    flush_to_disk,
    move_files,
    remove_old_checkpoints,
    replace_folder,
)
from openpali.recipes.training.bad_data import CAUGHT_ERROR, RECORD_NAMES
from openpali.recipes.training.engines import tables_in_root
from openpali.recipes.training.loss_guard import BadLoss, LossGuard, RunStopped, count_bad_steps, save_bad_batch
from openpali.recipes.training.micro_batch import read_parts, split_batch, write_parts

# models whose loss is a mean over examples, so that a micro-batch can be split
DIVISIBLE = (Pali3ForConditionalGeneration, PaliGemmaForConditionalGeneration)


class SafeTrainer(Trainer):
    """Transformers' Trainer, with `on_bad_loss`, `halve_on_out_of_memory` and checkpoints that are always complete."""

    run_args: RunArguments

    def init_safety(self) -> None:
        """Set up the guards, with the state of an earlier attempt; call it at the end of a constructor.

        Raises:
            ConfigError: an option that this model or this engine does not support.
        """
        args = self.run_args
        if args.halve_on_out_of_memory and not isinstance(self.model, DIVISIBLE):
            raise ConfigError("halve_on_out_of_memory: the loss of this stage is of the whole batch; leave it out")
        if args.on_bad_loss == "skip" and self.is_deepspeed_enabled:
            raise ConfigError("on_bad_loss: skip: DeepSpeed takes its steps by itself; use stop, or FSDP2")
        self.guard = LossGuard(args)
        self.parts, self.share = read_parts(args), 1.0
        self.unfinished = False
        self.begin_step()

    def begin_step(self) -> None:
        """Forget the micro-batches of the last optimizer step."""
        self.micro_batches: list[dict[str, Any]] = []
        self.names: list[str] = []
        self.skipping = False

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward of a micro-batch, unless its loss is bad or it does not fit into memory.

        Raises:
            BadRecord: too many records are bad.
            RunStopped: a bad loss where the run is not to skip it, a batch without labels, or out of memory.
        """
        if len(self.micro_batches) == self.current_gradient_accumulation_steps:
            self.begin_step()
        inputs = dict(inputs)
        if CAUGHT_ERROR in inputs:
            raise inputs[CAUGHT_ERROR]
        self.names = inputs.pop(RECORD_NAMES, [])
        self.check_labels(inputs)
        self.micro_batches.append(inputs)
        nothing = torch.zeros((), device=self.args.device)
        if self.skipping:
            return nothing
        try:
            return self.step_within_memory(model, inputs)
        except BadLoss as bad:
            self.drop_step(model, inputs, str(bad))
            return nothing

    def check_labels(self, inputs: dict[str, Any]) -> None:
        """Raise RunStopped for a batch without a token to predict, whose loss would be 0."""
        labels = inputs.get("labels")
        if torch.is_tensor(labels) and not (labels != IGNORE_INDEX).any():
            named = f" ({', '.join(self.names[:3])})" if self.names else ""
            raise RunStopped(
                f"step {self.state.global_step + 1}: no token of this batch{named} has a label to train on."
                " Raise suffix_max_length, or give targets that are not empty."
            )

    def step_within_memory(self, model: nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        """Forward and backward of a micro-batch, in more parts each time memory runs out."""
        while True:
            try:
                return self.step_in_parts(model, inputs)
            except torch.OutOfMemoryError as error:
                self.halve(inputs, error)
            # outside the handler, whose traceback holds the failed pass
            gc.collect()
            if torch.accelerator.is_available():
                torch.accelerator.memory.empty_cache()
            # the failed backward has left gradients: compute those of this step again
            model.zero_grad()
            with self.accelerator.no_sync(model):
                for earlier in self.micro_batches[:-1]:
                    self.step_in_parts(model, earlier)

    def halve(self, inputs: dict[str, Any], error: torch.OutOfMemoryError) -> None:
        """Double the number of parts for the rest of the run.

        Raises:
            RunStopped: it cannot be doubled, or other processes wait where this one failed.
        """
        args, size = self.run_args, self.run_args.per_device_train_batch_size
        if not args.halve_on_out_of_memory:
            raise RunStopped(
                f"out of memory with {size // self.parts} examples at a time ({short(error)}). Lower"
                " per_device_train_batch_size and raise gradient_accumulation_steps, or add"
                " --halve_on_out_of_memory true, which keeps the batch and its order"
            ) from error
        if self.parts >= size:
            raise RunStopped(f"out of memory with a single example ({short(error)})") from error
        # raises before the number is saved
        split_batch(inputs, self.parts * 2, self.image_token)
        self.parts *= 2
        note = write_parts(args, self.parts)
        text = f"Out of memory: micro-batches of {size} are computed in {self.parts} parts from now on ({note})"
        if args.world_size > 1:
            raise RunStopped(f"{text}. Other processes wait: the same command resumes with this number.") from error
        print(text, flush=True)

    def step_in_parts(self, model: nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        """Forward and backward of each part; processes synchronise after the last one only."""
        total, parts = torch.zeros((), device=self.args.device), split_batch(inputs, self.parts, self.image_token)
        synchronised = self.accelerator.sync_gradients
        for number, (part, self.share) in enumerate(parts):
            last = number == len(parts) - 1
            self.accelerator.gradient_state._set_sync_gradients(synchronised and last)
            with contextlib.nullcontext() if last else self.accelerator.no_sync(model):
                total = total + super().training_step(model, part)
        self.share = 1.0
        return total

    @property
    def image_token(self) -> int | None:
        """The id of image tokens, where the model has them."""
        return self.model.config.image_token_id if isinstance(self.model, DIVISIBLE) else None

    def check_loss(self, loss: torch.Tensor) -> torch.Tensor:
        """Check the loss of a part, and scale it by the part's share of the micro-batch."""
        self.guard.check(loss)
        return loss * self.share

    def drop_step(self, model: nn.Module, inputs: dict[str, Any], reason: str) -> None:
        """Save the batch for inspection, and skip this optimizer step.

        Raises:
            RunStopped: `on_bad_loss` is stop, or more steps than `bad_loss_limit` were skipped.
        """
        args, step = self.run_args, self.state.global_step + 1
        self.share = 1.0
        path = save_bad_batch(inputs, self.names, step, reason, args)
        self.accelerator.wait_for_everyone()
        bad = count_bad_steps(args.folder)
        message = f"Step {step}: {reason}; its batch is in {path}"
        if args.on_bad_loss == "stop" or bad > args.bad_loss_limit:
            last = last_checkpoint(args.folder)
            rest = "" if args.on_bad_loss == "stop" else f", and {bad} steps are more than bad_loss_limit"
            raise RunStopped(
                f"{message}{rest}. The last checkpoint is {last}. Look at the records, lower the learning rate, or add"
                " --on_bad_loss skip"
            )
        args.say(f"{message}. The step is skipped, {bad} of at most {args.bad_loss_limit}.")
        self.skipping = True
        # an optimizer does not change parameters without gradients
        model.zero_grad(set_to_none=True)

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        assert isinstance(self.model, PreTrainedModel)
        options = self.args.activation_checkpointing_kwargs
        if not (isinstance(options, dict) and options.get("use_reentrant")):
            # Transformers gives the outputs of all embeddings gradients, also the image encoder's. Re-entrant
            # checkpoints need that; with others, frozen layers below all that trains would be recomputed
            self.model.disable_input_require_grads()
        with tables_in_root(self.model) if self.is_fsdp_enabled else contextlib.nullcontext():
            return super()._prepare_for_training(*args, **kwargs)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        if self.skipping:
            return 0.0
        norm: Any = super()._get_grad_norm(model, grad_norm)
        # fp16's GradScaler finds its scale by overflows, and DeepSpeed has taken the step already
        if not (self.args.fp16 or self.is_deepspeed_enabled) and not math.isfinite(float(norm)):
            self.drop_step(model, self.micro_batches[-1], f"the norm of the gradient is {float(norm)}")
        return norm

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        if self.args.should_save:
            self.guard.save(Path(output_dir))

    def _get_output_dir(self, trial: Any) -> str:
        # all files of a checkpoint are written here first
        folder = super()._get_output_dir(trial)
        return os.path.join(folder, UNFINISHED_FOLDER) if self.unfinished else folder

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint into the unfinished folder, rename it once it is complete, and remove old ones.

        Raises:
            RunStopped: the disk is full.
        """
        folder, name = self.run_args.folder, f"checkpoint-{self.state.global_step}"
        self.empty_unfinished_folder()
        with self.explain_full_disk(), self.writing_unfinished():
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                flush_to_disk(folder / UNFINISHED_FOLDER / name)
                replace_folder(folder / UNFINISHED_FOLDER / name, folder / name)
                remove_old_checkpoints(folder, self.args.save_total_limit)
        self.accelerator.wait_for_everyone()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the whole model, also from shards; called by all processes."""
        if self.is_fsdp_enabled:
            self._save(output_dir, self.accelerator.get_state_dict(self.model))
        else:
            super().save_model(output_dir, _internal_call)

    def save_final(self) -> None:
        """Save the model beside the checkpoints; files are moved there once all are written."""
        folder = self.run_args.folder
        self.empty_unfinished_folder()
        with self.explain_full_disk():
            self.save_model(str(folder / UNFINISHED_FOLDER / "final"), _internal_call=True)
        if self.args.should_save:
            move_files(folder / UNFINISHED_FOLDER / "final", folder)
            shutil.rmtree(folder / UNFINISHED_FOLDER, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def broadcast_decision(self, decision: bool) -> bool:
        """The main process's decision, on all processes, whose numbers differ in their last bits."""
        agreed = [decision]
        if self.args.world_size > 1:
            torch.distributed.broadcast_object_list(agreed, 0)
        return agreed[0]

    @contextlib.contextmanager
    def writing_unfinished(self) -> Any:
        """Context in which the Trainer writes checkpoints into the unfinished folder."""
        self.unfinished = True
        try:
            yield
        finally:
            self.unfinished = False

    def empty_unfinished_folder(self) -> None:
        """Remove what an earlier attempt wrote there."""
        if self.args.should_save:
            shutil.rmtree(self.run_args.folder / UNFINISHED_FOLDER, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    @contextlib.contextmanager
    def explain_full_disk(self) -> Any:
        """Context that turns the error of a full disk into a sentence, and removes unfinished files."""
        folder = self.run_args.folder
        try:
            yield
        except Exception as error:
            if not disk_is_full(error, folder):
                raise
            shutil.rmtree(folder / UNFINISHED_FOLDER, ignore_errors=True)
            free = shutil.disk_usage(folder).free / 1e9
            raise RunStopped(
                f"the disk of {folder} is full ({free:.3g} GB are free): step {self.state.global_step} could not be"
                f" saved. {last_checkpoint(folder)} is complete; free some space, and the same command resumes from it"
            ) from error


def short(error: BaseException) -> str:
    """The first sentence of an error."""
    return str(error).split(". ")[0].splitlines()[0] if str(error) else type(error).__name__
