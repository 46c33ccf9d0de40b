"""Runs on cached features: the losses of runs on images, where the cache is used, and what a kill leaves."""

import multiprocessing
import os
import signal

import pytest
import torch
from feature_runs import DISTINCT, CountedImages, arguments, dataset

from openpali.data.collator import Collator
from openpali.data.files.config import ConfigError
from openpali.data.mixture import TaskDataset
from openpali.modeling.dropout import set_text_dropout
from openpali.recipes.features.cache import FOLDER, cached_features
from openpali.recipes.features.examples import CachedExamples
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.run.command_line import parse
from openpali.recipes.run.resume import open_run
from openpali.recipes.run.run_folder import LOG_FILE
from openpali.recipes.training.progress import read_log
from openpali.recipes.training.trainer import run_training
from openpali.recipes.transfer import TransferArguments
from openpali.recipes.transfer import main as transfer

# some runs are forked
pytestmark = pytest.mark.usefixtures("one_thread")


def train(folder, data, made, mode, exact=True, limits=None, **options):
    """The losses of a run."""
    model, processor = made
    run = arguments(folder, **options)
    checkpoint = open_run(run)
    set_text_dropout(model, 0.1)
    collator = Collator(processor, **(limits or {}), exact_images=exact)
    examples, batches = cached_features(mode, model, dataset(data), collator, run)
    assert isinstance(examples, CachedExamples) == (mode == "on")
    run_training(model, processor, run, examples, batches, resume_from=checkpoint)
    losses = [row["loss"] for row in read_log(folder / LOG_FILE) if "loss" in row]
    assert losses
    return losses


@pytest.mark.parametrize("kind", ["pali3", "paligemma"])
@pytest.mark.parametrize("exact", [True, False])
def test_losses_of_three_epochs_are_those_of_the_images(make, data, tmp_path, kind, exact):
    runs = [train(tmp_path / mode, data, make(kind), mode, exact) for mode in ("off", "on")]
    assert len(runs[0]) == len(runs[1]) == 8
    assert runs[1] == pytest.approx(runs[0], abs=1e-5)
    assert runs[0][0] - min(runs[0]) > 0.05


def test_projector_and_text_model_move_and_the_encoder_does_not(make, data, tmp_path):
    model, processor = make("pali3")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(tmp_path / "run", data, (model, processor), "on")
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name for name in before if "projector" in name} <= moved
    assert not any("vision_tower" in name for name in moved)


def test_packed_rows_and_loader_workers_change_no_loss(make, data, tmp_path):
    limits = {"pack_length": 40}
    runs = [train(tmp_path / mode, data, make("paligemma"), mode, limits=limits) for mode in ("off", "on")]
    assert runs[1] == pytest.approx(runs[0], abs=1e-5)
    workers = train(tmp_path / "w", data, make("paligemma"), "on", limits=limits, dataloader_num_workers=2)
    # their batches come through shared memory, which lies at other addresses
    assert workers == pytest.approx(runs[1], abs=1e-5)


def killed(at, function, *args, **options):
    """Run in a process that is killed at the call of `at`, or of its method, of this number."""
    owner, name, number = at

    def run():
        calls, real = [], getattr(owner, name)

        def counted(*given, **more):
            calls.append(None)
            if len(calls) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*given, **more)

        setattr(owner, name, counted)
        function(*args, **options)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_a_run_killed_while_it_fills_and_while_it_trains_ends_as_an_uninterrupted_one(make, data, tmp_path):
    whole = train(tmp_path / "whole" / "run", data, make("pali3"), "off", save_steps=3)
    folder = tmp_path / "killed" / "run"
    # the second batch has its features on the disk already, and no keys
    killed((os, "fsync", 2), train, folder, data, make("pali3"), "on", save_steps=3)
    (keys,) = (folder.parent / FOLDER).glob("*/*.keys")
    assert 0 < keys.stat().st_size < 16 * DISTINCT
    steps = (torch.optim.AdamW, "step", 5)
    killed(steps, train, folder, data, make("pali3"), "on", save_steps=3, resume="auto")
    computed = CountedImages(make("pali3")[0])
    again = train(folder, data, make("pali3"), "on", save_steps=3, resume="auto")
    assert computed.images == 0
    assert again[-5:] == pytest.approx(whole[-5:], abs=1e-5)


REFUSED = {
    "the image encoder trains": {"freeze": "projector"},
    "augmented images differ": {"augment": {"flip": 0.5}},
    "dropout": {"change": lambda model, processor: setattr(model.config.vision_config, "attention_dropout", 0.1)},
}


@pytest.mark.parametrize("reason", REFUSED)
def test_where_features_cannot_be_kept_auto_goes_without_and_on_says_why(fill_cache, tmp_path, reason):
    computed, examples, collator, shown = fill_cache(mode="auto", **REFUSED[reason])
    assert (computed, type(examples), type(collator)) == (0, TaskDataset, Collator)
    # most encoders train: nothing is to be said of that
    assert (reason in shown) == ("trains" not in reason)
    assert not (tmp_path / FOLDER).exists()
    with pytest.raises(ConfigError, match=reason):
        fill_cache(mode="on", **REFUSED[reason])


@pytest.mark.parametrize(
    ("options", "used"),
    [
        ({"num_train_epochs": 2}, True),
        ({"num_train_epochs": 1}, False),
        ({"max_steps": 5}, False),
        ({"max_steps": 6}, True),
    ],
)
def test_auto_is_on_where_images_come_twice(fill_cache, options, used):
    assert isinstance(fill_cache(mode="auto", **options)[1], CachedExamples) == used
    assert not isinstance(fill_cache(mode="off", **options)[1], CachedExamples)
    assert isinstance(fill_cache(mode="on", **options)[1], CachedExamples)


@pytest.mark.parametrize("word", ["auto", "on", "off"])
def test_yaml_reads_its_three_words(tmp_path, word):
    path = tmp_path / "run.yaml"
    path.write_text(f"output_dir: run\nmodel: a/b\ndata: my.jsonl\nfeature_cache: {word}\n")
    found = [parse([TransferArguments, RunArguments], argv)[0].feature_cache for argv in (["--config", str(path)],)]
    options = ["--output_dir", "run", "--model", "a/b", "--data", "my.jsonl", "--feature_cache", word]
    assert [*found, parse([TransferArguments, RunArguments], options)[0].feature_cache] == [word, word]


def test_a_transfer_with_a_frozen_encoder_keeps_features_by_itself(make, data, tmp_path, capsys):
    model, processor = make("pali3")
    for part in (model, processor):
        part.save_pretrained(tmp_path / "model")
    options = {"model": tmp_path / "model", "data": data, "output_dir": tmp_path / "run", "num_train_epochs": 2}
    options |= {"use_cpu": "true", "per_device_train_batch_size": 4, "test_limit": 2, "tensorboard": "false"}
    argv = [str(part) for key, value in options.items() for part in (f"--{key}", value)]
    transfer([*argv, "--freeze", "vision_tower"])
    assert "distinct images of 4 x 16 values in float32" in capsys.readouterr().out
    assert len([*(tmp_path / FOLDER).glob("*/*.keys")]) == 1
