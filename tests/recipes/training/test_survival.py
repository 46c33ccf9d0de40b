"""Runs that meet losses that are no numbers, full disks, too little memory, and kills while they write."""

import errno
import json
import os
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from test_recipe_trainer import curve, no_dropout
from tiny_run import IMAGE, Items, collate, tiny_model, tiny_run

from openpali import Pali3ForConditionalGeneration
from openpali.data.example import Example
from openpali.data.files.config import ConfigError
from openpali.recipes.run.resume import last_checkpoint
from openpali.recipes.run.run_folder import (
    BEST_FOLDER,
    UNFINISHED_FOLDER,
    disk_is_full,
    finish_interrupted_writes,
    replace_folder,
)
from openpali.recipes.training.bad_data import RECORD_NAMES, RecordNamingCollator
from openpali.recipes.training.loss_guard import RunStopped
from openpali.recipes.training.micro_batch import split_batch
from openpali.recipes.training.progress import read_log
from openpali.recipes.training.safe_trainer import SafeTrainer


class Broken(Pali3ForConditionalGeneration):
    """A model whose loss or gradient goes wrong at chosen calls, counted from 1."""

    def go_wrong(self, calls, how):
        self.calls, self.bad, self.how = 0, calls, how
        return self

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        if self.training:
            self.calls += 1
            if self.calls in self.bad:
                output.loss = self.how(output.loss)
        return output


def broken(calls, how):
    model = no_dropout()
    model.__class__ = Broken
    return model.go_wrong(calls, how)


class Poison(torch.autograd.Function):
    """Zero, with a gradient that is not a number."""

    @staticmethod
    def forward(ctx, loss):
        return torch.zeros_like(loss)

    @staticmethod
    def backward(ctx, *grads):
        return grads[0] * torch.nan


BAD = {
    "not a number": lambda loss: loss * torch.nan,
    "spike": lambda loss: loss * 50,
    "gradient": lambda loss: loss + Poison.apply(loss),
}


@pytest.mark.parametrize("kind", list(BAD))
def test_bad_loss_stops_and_keeps_the_batch(tmp_path, kind):
    options = {"output_dir": str(tmp_path), "max_steps": 26, "save_steps": 22, "loss_spike": 5, "logging_steps": 50}
    with pytest.raises(RunStopped, match=r"Step 24: the (loss|norm of the gradient) is .*checkpoint-22"):
        tiny_run(model=broken({24}, BAD[kind]), **options)
    kept = json.loads((tmp_path / "bad_batches" / "step-24-process-0.json").read_text())
    assert kept["step"] == 24
    tensors = load_file(tmp_path / "bad_batches" / kept["tensors"])
    assert tensors["pixel_values"].shape == (4, 3, 16, 16)
    assert set(tensors) == {"pixel_values", "input_ids", "labels"}
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-22"


@pytest.mark.parametrize("kind", ["not a number", "gradient"])
def test_skipped_step_leaves_everything_as_it_was(tmp_path, kind, capsys):
    states = []

    # two micro-batches a step: the second one of step 2 is bad, and the first must not count either
    options = {"on_bad_loss": "skip", "gradient_accumulation_steps": 2, "max_steps": 3, "warmup_steps": 0}
    model = broken({4}, BAD[kind])

    def evaluate(model):
        states.append({k: v.clone() for k, v in model.state_dict().items()})
        return {"negative_loss": 0.0}

    tiny_run(output_dir=str(tmp_path), model=model, evaluate=evaluate, eval_steps=1, **options)
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert any(not torch.equal(states[1][k], states[2][k]) for k in states[0])
    assert all(torch.isfinite(v).all() for v in states[2].values())
    assert "The step is skipped, 1 of at most 10." in capsys.readouterr().out


def test_no_more_steps_are_skipped_than_the_limit(tmp_path):
    options = {"on_bad_loss": "skip", "bad_loss_limit": 2, "max_steps": 9}
    with pytest.raises(RunStopped, match="Step 5: .* and 3 steps are more than bad_loss_limit"):
        tiny_run(output_dir=str(tmp_path), model=broken({2, 4, 5}, BAD["not a number"]), **options)


def test_names_of_records_come_with_the_batch_and_go_again():
    examples = [Example(name, "task", (), "") for name in ("a", "b")]
    assert RecordNamingCollator(lambda items: {"n": len(items)})(examples) == {"n": 2, RECORD_NAMES: ["a", "b"]}
    assert RECORD_NAMES not in RecordNamingCollator(lambda items: {})([1, 2])


class Small(Pali3ForConditionalGeneration):
    """A model that a machine can hold `room` examples of, forward or backward."""

    def with_room(self, room):
        self.room, self.sizes, self.where = room, [], "forward"
        return self

    def forward(self, *args, **kwargs):
        size = len(kwargs["input_ids"])
        self.sizes.append(size)
        output = super().forward(*args, **kwargs)
        if self.training and size > self.room:
            # in the second step only the backward pass runs out
            if len(self.sizes) % 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0 has")
            output.loss.register_hook(self.run_out)
        return output

    def run_out(self, gradient):
        raise torch.OutOfMemoryError("CUDA out of memory. In backward")


def small(room):
    model = no_dropout()
    model.__class__ = Small
    return model.with_room(room)


def test_out_of_memory_halves_the_micro_batch_and_nothing_else(tmp_path, capsys):
    options = {"gradient_accumulation_steps": 2, "halve_on_out_of_memory": True}
    model = small(1)
    tiny_run(output_dir=str(tmp_path / "small"), model=model, **options)
    tiny_run(output_dir=str(tmp_path / "large"), model=no_dropout(), **options)
    for halved, whole in zip(curve(tmp_path / "small"), curve(tmp_path / "large"), strict=True):
        assert halved == pytest.approx(whole, rel=1e-4)
    assert "micro-batches of 4 are computed in 4 parts" in capsys.readouterr().out
    # 4, 2 (which breaks in the backward pass) and then one by one, with what was already done of the step
    assert model.sizes[:3] == [4, 2, 1]
    model = small(1)
    tiny_run(output_dir=str(tmp_path / "small"), model=model, max_steps=5, resume="auto", **options)
    assert set(model.sizes) == {1}


def test_out_of_memory_is_told_with_its_remedies(tmp_path):
    with pytest.raises(RunStopped, match="with 4 examples at a time .CUDA.*--halve_on_out_of_memory true"):
        tiny_run(output_dir=str(tmp_path / "a"), model=small(3))
    with pytest.raises(RunStopped, match="out of memory with a single example"):
        tiny_run(output_dir=str(tmp_path / "b"), model=small(0), halve_on_out_of_memory=True)


@pytest.mark.parametrize("pixels", ["pixel_values", "image_features"])
def test_a_batch_in_parts_keeps_rows_and_their_images_together(pixels):
    ids = torch.tensor([[IMAGE, IMAGE, 5, 5], [IMAGE, IMAGE, IMAGE, IMAGE], [IMAGE, IMAGE, 5, 5]])
    images = torch.arange(4.0)[:, None, None, None]
    parts = split_batch({"input_ids": ids, pixels: images, "labels": ids}, 2, IMAGE)
    assert [len(part["labels"]) for part, _ in parts] == [1, 2]
    assert [part[pixels].flatten().tolist() for part, _ in parts] == [[0], [1, 2, 3]]
    assert [share for _, share in parts] == pytest.approx([1 / 3, 2 / 3])
    with pytest.raises(RunStopped, match="their rows are not one example each"):
        split_batch({"input_ids": ids, "sequence_ids": ids}, 2, IMAGE)


WRITERS = {
    "file": OSError(errno.ENOSPC, "No space left on device"),
    "torch": RuntimeError("[enforce fail at inline.cc:672] . PytorchStreamWriter failed writing file data/0"),
    "safetensors": RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
}


@pytest.mark.parametrize("writer", list(WRITERS))
def test_full_disk_is_told_and_the_last_checkpoint_is_whole(tmp_path, monkeypatch, writer):
    options = {"output_dir": str(tmp_path), "max_steps": 6, "save_steps": 2}
    monkeypatch.setattr(torch, "save", fails_at_step_4(torch.save, WRITERS[writer]))
    with pytest.raises(RunStopped, match="disk of .* is full .*step 4 could not be saved. .*checkpoint-2 is complete"):
        tiny_run(**options)
    monkeypatch.undo()
    assert not (tmp_path / UNFINISHED_FOLDER).exists()
    tiny_run(**options)
    tiny_run(output_dir=str(tmp_path / "whole"), max_steps=6, save_steps=2)
    assert curve(tmp_path) == curve(tmp_path / "whole")


def fails_at_step_4(save, error):
    def write(content, path, *args, **kwargs):
        if f"{UNFINISHED_FOLDER}{os.sep}checkpoint-4" in str(path) and "optimizer" in str(path):
            with open(path, "wb") as file:
                file.write(b"half")
            raise error
        return save(content, path, *args, **kwargs)

    return write


def test_other_errors_of_writers_are_not_called_a_full_disk(tmp_path, monkeypatch):
    broken = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 101440 vs 101332")
    assert not disk_is_full(OSError(errno.EACCES, "Permission denied"), tmp_path)
    assert not disk_is_full(broken, tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=0))
    assert disk_is_full(broken, tmp_path)


def test_checkpoints_appear_whole_or_not_at_all(tmp_path, monkeypatch):
    seen = []

    def look(self, output_dir):
        seen.append((output_dir, sorted(p.name for p in tmp_path.glob("checkpoint-*"))))
        return super(SafeTrainer, self)._save_rng_state(output_dir)

    monkeypatch.setattr(SafeTrainer, "_save_rng_state", look)
    tiny_run(output_dir=str(tmp_path), max_steps=6, save_steps=2, save_total_limit=2)
    assert seen[1] == (str(tmp_path / UNFINISHED_FOLDER / "checkpoint-4"), ["checkpoint-2"])
    assert sorted(p.name for p in tmp_path.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-6"]
    assert not list(tmp_path.glob(UNFINISHED_FOLDER + "/*"))


def test_folder_that_a_kill_left_between_two_names_comes_back(tmp_path):
    for name in (f"{BEST_FOLDER}.old", "checkpoint-4.old", "checkpoint-8.old", "checkpoint-8", UNFINISHED_FOLDER):
        (tmp_path / name).mkdir()
        (tmp_path / name / "from").write_text(name)
    finish_interrupted_writes(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [BEST_FOLDER, "checkpoint-4", "checkpoint-8"]
    assert (tmp_path / "checkpoint-8" / "from").read_text() == "checkpoint-8"
    fresh = shutil.copytree(tmp_path / "checkpoint-8", tmp_path / "fresh")
    (fresh / "from").write_text("fresh")
    replace_folder(fresh, tmp_path / BEST_FOLDER)
    assert (tmp_path / BEST_FOLDER / "from").read_text() == "fresh"
    assert not (tmp_path / f"{BEST_FOLDER}.old").exists()


def test_options_that_make_no_sense_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="loss_spike is a factor above 1"):
        tiny_run(output_dir=str(tmp_path), loss_spike=0.5)


def test_a_usual_run_says_its_engine_and_keeps_no_batch(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OPENPALI_PROCESSES", "2")
    tiny_run(output_dir=str(tmp_path), max_steps=1, loss_spike=5, model=tiny_model())
    said = capsys.readouterr().out
    assert "Engine: no engine, 1 process, cpu, no mixed precision" in said
    assert "Warning: OPENPALI_PROCESSES asks for 2 processes, and this run has 1: with --cpu" in said
    assert not (tmp_path / "bad_batches").exists()
    assert len(read_log(tmp_path / "logs.jsonl")) == 1
    assert collate([Items()[0]])["labels"].shape == (1, 2)
