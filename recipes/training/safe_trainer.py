"""A Trainer that survives: checkpoints that are whole or not there, losses that are no numbers, too little memory."""

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
from openpali.recipes.training.micro_batch import read_parts, split, write_parts

# their losses are means over examples, so that a micro-batch is the sum of its parts
DIVISIBLE = (Pali3ForConditionalGeneration, PaliGemmaForConditionalGeneration)


class SafeTrainer(Trainer):
    """Transformers' Trainer, with `on_bad_loss`, `halve_on_out_of_memory` and checkpoints that are never torn."""

    run_args: RunArguments

    def prepare_to_survive(self) -> None:
        """Read what an earlier attempt of this run left; to be called at the end of a constructor.

        Raises:
            ConfigError: an option that this model or this engine cannot have.
        """
        args = self.run_args
        if args.halve_on_out_of_memory and not isinstance(self.model, DIVISIBLE):
            raise ConfigError("halve_on_out_of_memory: the loss of this stage is of the whole batch; leave it out")
        if args.on_bad_loss == "skip" and self.is_deepspeed_enabled:
            raise ConfigError("on_bad_loss: skip: DeepSpeed takes its steps by itself; use stop, or FSDP2")
        self.guard = LossGuard(args)
        self.parts, self.share = read_parts(args), 1.0
        self.aside = False
        self.begin_step()

    def begin_step(self) -> None:
        """Forget the micro-batches of the last optimizer step."""
        self.taken: list[dict[str, Any]] = []
        self.names: list[str] = []
        self.skipping = False

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward of a micro-batch, unless its loss is bad or it does not fit into memory.

        Raises:
            BadRecord: too many records are bad.
            RunStopped: a bad loss where the run is not to skip it, a batch without labels, or out of memory.
        """
        if len(self.taken) == self.current_gradient_accumulation_steps:
            self.begin_step()
        inputs = dict(inputs)
        if CAUGHT_ERROR in inputs:
            raise inputs[CAUGHT_ERROR]
        self.names = inputs.pop(RECORD_NAMES, [])
        self.refuse_unlabelled(inputs)
        self.taken.append(inputs)
        nothing = torch.zeros((), device=self.args.device)
        if self.skipping:
            return nothing
        try:
            return self.fitting_step(model, inputs)
        except BadLoss as bad:
            self.drop_step(model, inputs, str(bad))
            return nothing

    def refuse_unlabelled(self, inputs: dict[str, Any]) -> None:
        """Raise RunStopped for a batch without a token to predict, whose loss would be 0 and teach nothing."""
        labels = inputs.get("labels")
        if torch.is_tensor(labels) and not (labels != IGNORE_INDEX).any():
            named = f" ({', '.join(self.names[:3])})" if self.names else ""
            raise RunStopped(
                f"step {self.state.global_step + 1}: no token of this batch{named} has a label, and nothing would be"
                " learnt. Raise suffix_max_length, or give targets that are not empty."
            )

    def fitting_step(self, model: nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        """The same in as many parts as memory asks for."""
        while True:
            try:
                return self.step_in_parts(model, inputs)
            except torch.OutOfMemoryError as error:
                self.halve(inputs, error)
            # out of the handler, whose traceback holds the failed pass
            gc.collect()
            if torch.accelerator.is_available():
                torch.accelerator.memory.empty_cache()
            # a backward that broke off has left gradients: those of this step are made again
            model.zero_grad()
            with self.accelerator.no_sync(model):
                for earlier in self.taken[:-1]:
                    self.step_in_parts(model, earlier)

    def halve(self, inputs: dict[str, Any], error: torch.OutOfMemoryError) -> None:
        """Use twice as many parts from now on.

        Raises:
            RunStopped: this cannot be done, or other processes wait where this one failed.
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
        # whether it can be split is to be known before it is written down
        split(inputs, self.parts * 2, self.image_token)
        self.parts *= 2
        note = write_parts(args, self.parts)
        text = f"Out of memory: micro-batches of {size} are computed in {self.parts} parts from now on ({note})"
        if args.world_size > 1:
            raise RunStopped(f"{text}. Other processes wait: the same command goes on so.") from error
        print(text, flush=True)

    def step_in_parts(self, model: nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        """Forward and backward of each part; processes synchronise after the last one only."""
        total, parts = torch.zeros((), device=self.args.device), split(inputs, self.parts, self.image_token)
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

    def checked(self, loss: torch.Tensor) -> torch.Tensor:
        """The loss of a part as it enters the gradient, once it is known to be good."""
        self.guard.check(loss)
        return loss * self.share

    def drop_step(self, model: nn.Module, inputs: dict[str, Any], reason: str) -> None:
        """Keep the batch for inspection, and leave this step of the optimizer out.

        Raises:
            RunStopped: the run is to stop, or has left out as many steps as it may.
        """
        args, step = self.run_args, self.state.global_step + 1
        self.share = 1.0
        path = save_bad_batch(inputs, self.names, step, reason, args)
        self.accelerator.wait_for_everyone()
        bad = count_bad_steps(args.folder)
        said = f"Step {step}: {reason}; its batch is in {path}"
        if args.on_bad_loss == "stop" or bad > args.bad_loss_limit:
            last = last_checkpoint(args.folder)
            rest = "" if args.on_bad_loss == "stop" else f", and {bad} steps are more than bad_loss_limit"
            raise RunStopped(
                f"{said}{rest}. The last checkpoint is {last}. Look at the records, lower the learning rate, or add"
                " --on_bad_loss skip"
            )
        args.say(f"{said}. The step is skipped, {bad} of at most {args.bad_loss_limit}.")
        self.skipping = True
        # an optimizer changes nothing that has no gradient
        model.zero_grad(set_to_none=True)

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        assert isinstance(self.model, PreTrainedModel)
        options = self.args.activation_checkpointing_kwargs
        if not (isinstance(options, dict) and options.get("use_reentrant")):
            # Transformers lets every embedding ask for gradients, the image encoder's too. Re-entrant checkpoints need
            # that; with others, what lies below all that trains would keep its graph and be computed a second time
            self.model.disable_input_require_grads()
        with tables_in_root(self.model) if self.is_fsdp_enabled else contextlib.nullcontext():
            return super()._prepare_for_training(*args, **kwargs)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        if self.skipping:
            return 0.0
        norm: Any = super()._get_grad_norm(model, grad_norm)
        # GradScaler of fp16 looks for its best scale by overflows, and DeepSpeed has taken the step already
        if not (self.args.fp16 or self.is_deepspeed_enabled) and not math.isfinite(float(norm)):
            self.drop_step(model, self.taken[-1], f"the norm of the gradient is {float(norm)}")
        return norm

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        if self.args.should_save:
            self.guard.save(Path(output_dir))

    def _get_output_dir(self, trial: Any) -> str:
        # everything of a checkpoint is written here first
        folder = super()._get_output_dir(trial)
        return os.path.join(folder, UNFINISHED_FOLDER) if self.aside else folder

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint aside, give it its name once it is whole, and remove old ones.

        Raises:
            RunStopped: the disk is full.
        """
        folder, name = self.run_args.folder, f"checkpoint-{self.state.global_step}"
        self.empty_aside()
        with self.full_disk_told(), self.writing_aside():
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                flush_to_disk(folder / UNFINISHED_FOLDER / name)
                replace_folder(folder / UNFINISHED_FOLDER / name, folder / name)
                remove_old_checkpoints(folder, self.args.save_total_limit)
        self.accelerator.wait_for_everyone()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the whole model, also where it lies in shards; to be called by all processes."""
        if self.is_fsdp_enabled:
            self._save(output_dir, self.accelerator.get_state_dict(self.model))
        else:
            super().save_model(output_dir, _internal_call)

    def save_final(self) -> None:
        """Save the model beside the checkpoints, file by file once all are written."""
        folder = self.run_args.folder
        self.empty_aside()
        with self.full_disk_told():
            self.save_model(str(folder / UNFINISHED_FOLDER / "final"), _internal_call=True)
        if self.args.should_save:
            move_files(folder / UNFINISHED_FOLDER / "final", folder)
            shutil.rmtree(folder / UNFINISHED_FOLDER, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def as_main_decides(self, decision: bool) -> bool:
        """The main process's decision, in all: numbers may differ in their last bits, and files come late."""
        agreed = [decision]
        if self.args.world_size > 1:
            torch.distributed.broadcast_object_list(agreed, 0)
        return agreed[0]

    @contextlib.contextmanager
    def writing_aside(self) -> Any:
        """Turn the Trainer's checkpoints to the folder of unfinished ones."""
        self.aside = True
        try:
            yield
        finally:
            self.aside = False

    def empty_aside(self) -> None:
        """Remove what an earlier attempt left there."""
        if self.args.should_save:
            shutil.rmtree(self.run_args.folder / UNFINISHED_FOLDER, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    @contextlib.contextmanager
    def full_disk_told(self) -> Any:
        """Turn a writer's error into a sentence, and remove what it wrote in part."""
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
                f" saved. {last_checkpoint(folder)} is whole; make room, and the same command goes on from it"
            ) from error


def short(error: BaseException) -> str:
    """The first sentence of an error."""
    return str(error).split(". ")[0].splitlines()[0] if str(error) else type(error).__name__
