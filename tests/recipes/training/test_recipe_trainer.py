import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from tiny_run import ITEMS, tiny_model, tiny_run, validation_loss

from openpali import Pali3ForConditionalGeneration
from openpali.data.files.config import ConfigError
from openpali.modeling.user_errors import CheckpointError
from openpali.recipes.run.resume import last_checkpoint
from openpali.recipes.run.run_folder import BEST_FOLDER
from openpali.recipes.training.load_weights import load_weights
from openpali.recipes.training.progress import read_log
from openpali.recipes.training.sampling import RunSampler

pytestmark = pytest.mark.usefixtures("one_thread")
SCRIPT = Path(tiny_run.__code__.co_filename)


def training_rows(folder: Path) -> list[dict]:
    return [row for row in read_log(folder / "logs.jsonl") if "loss" in row]


def curve(folder: Path) -> list[tuple]:
    return [(r["step"], r["loss"], r["grad_norm"], r["lr"]) for r in training_rows(folder)]


def in_subprocess(**options) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPT), json.dumps(options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, start_new_session=True)


LONG = {"max_steps": 9, "save_steps": 4, "eval_steps": 3}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    tiny_run(output_dir=str(folder), **LONG)
    return folder


# 10 items in batches of 4: the run crosses epoch borders inside batches 3, 5 and 8
@pytest.mark.parametrize("workers", [0, 1])
def test_killed_and_resumed_equals_uninterrupted(uninterrupted, tmp_path, workers, capsys):
    options = {"output_dir": str(tmp_path), "dataloader_num_workers": workers, **LONG}
    killed = in_subprocess(kill_at=6, **options)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (tmp_path / "checkpoint-4").exists()
    assert [r["step"] for r in training_rows(tmp_path)] == [1, 2, 3, 4, 5]
    tiny_run(**options)
    assert f"resumed from {tmp_path / 'checkpoint-4'}" in capsys.readouterr().out
    assert curve(tmp_path) == curve(uninterrupted)
    assert [r["step"] for r in training_rows(tmp_path)] == list(range(1, 10))
    finals = [Pali3ForConditionalGeneration.from_pretrained(f).state_dict() for f in (tmp_path, uninterrupted)]
    for name, tensor in finals[0].items():
        assert torch.equal(tensor, finals[1][name]), name


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("everyone", [False, True])
def test_interrupted_run_saves_says_how_to_go_on_and_does(uninterrupted, tmp_path, number, everyone):
    options = {"output_dir": str(tmp_path), "dataloader_num_workers": int(everyone), **LONG}
    stopped = in_subprocess(kill_at=6, kill_with=int(number), kill_all=everyone, **options)
    assert stopped.returncode == 130, stopped.stderr
    step = training_rows(tmp_path)[-1]["step"]
    assert step in (6, 7)
    assert f"Stopped at step {step}. The same command resumes from" in stopped.stdout
    assert last_checkpoint(tmp_path) == tmp_path / f"checkpoint-{step}"
    tiny_run(**options)
    assert curve(tmp_path) == curve(uninterrupted)


def test_torn_checkpoint_is_passed_over(tmp_path, capsys):
    tiny_run(output_dir=str(tmp_path), max_steps=4, save_steps=2)
    (tmp_path / "checkpoint-4" / "trainer_state.json").write_text('{"global_step": 4, "log_hi')
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    (tmp_path / "checkpoint-2" / "optimizer.pt").unlink()
    assert last_checkpoint(tmp_path) is None
    assert "checkpoint-2: it lacks optimizer" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="checkpoint-2 is incomplete, it lacks optimizer"):
        tiny_run(output_dir=str(tmp_path), max_steps=4, save_steps=2, resume=str(tmp_path / "checkpoint-2"))


def test_accumulation_gives_the_same_loss_and_gradient_norm(tmp_path):
    tiny_run(output_dir=str(tmp_path / "1"), per_device_train_batch_size=4, model=no_dropout())
    options = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
    tiny_run(output_dir=str(tmp_path / "4"), model=no_dropout(), **options)
    for one, four in zip(curve(tmp_path / "1"), curve(tmp_path / "4"), strict=True):
        assert four == pytest.approx(one, rel=1e-4)


def no_dropout():
    model = tiny_model()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif "dropout" in vars(module):
            module.dropout = 0.0
    return model


def test_every_trainable_parameter_moves_and_no_frozen_one_does(tmp_path):
    model = tiny_model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    tiny_run(output_dir=str(tmp_path), model=model, freeze="vision_tower", evaluate=None)
    frozen = {name for name, p in model.named_parameters() if torch.equal(p, before[name])}
    assert frozen
    assert frozen == {name for name in before if ".vision_tower." in name}


def test_best_weights_are_really_loaded_and_saved(tmp_path):
    # scores that peak at the evaluation of step 4: the weights of that step must come back
    scores, states = iter([1.0, 3.0, 2.0]), []

    def evaluate(model):
        states.append({k: v.clone() for k, v in model.state_dict().items()})
        return {"negative_loss": next(scores)}

    trainer = tiny_run(output_dir=str(tmp_path), max_steps=6, eval_steps=2, evaluate=evaluate)
    saved = Pali3ForConditionalGeneration.from_pretrained(tmp_path).state_dict()
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, states[1][name]), name
        assert torch.equal(saved[name], states[1][name]), name
    assert any(not torch.equal(states[2][k], states[1][k]) for k in saved)
    assert json.loads((tmp_path / BEST_FOLDER / "best.json").read_text())["step"] == 4
    assert (tmp_path / BEST_FOLDER / "processor.json").exists()
    assert (tmp_path / "checkpoint-6" / "processor.json").exists()


def test_evaluation_leaves_training_as_it_was(tmp_path):
    def evaluate(model):
        torch.rand(3)
        return validation_loss(model)

    tiny_run(output_dir=str(tmp_path / "with"), eval_steps=1, evaluate=evaluate)
    tiny_run(output_dir=str(tmp_path / "without"))
    assert curve(tmp_path / "with") == curve(tmp_path / "without")


def test_weights_that_do_not_fit_are_an_error(tmp_path):
    model = tiny_model()
    state = {k: v for k, v in model.state_dict().items() if "projector" not in k}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(CheckpointError, match="lacks 2 parameters, among them .*projector"):
        load_weights(model, tmp_path)


def test_logs_name_loss_rate_speed_and_gradient_norm(tmp_path, capsys):
    tiny_run(output_dir=str(tmp_path), eval_steps=2, tensorboard=True)
    rows = training_rows(tmp_path)
    assert [r["step"] for r in rows] == [1, 2, 3, 4]
    assert all(r["examples_per_second"] > 0 and math.isfinite(r["grad_norm"]) for r in rows)
    assert [r["lr"] for r in rows] == pytest.approx([0, 0.01, 0.02, 0.01])
    assert [r["step"] for r in read_log(tmp_path / "logs.jsonl") if "eval_negative_loss" in r] == [2, 4]
    assert rows[-1]["epoch"] == pytest.approx(16 / ITEMS)
    assert list((tmp_path / "tensorboard").iterdir())
    shown = capsys.readouterr().out
    assert "examples/s" in shown
    assert "vision_tower" in shown


def test_folder_of_another_run_is_refused_unless_told(tmp_path, capsys):
    folder = str(tmp_path)
    tiny_run(output_dir=folder, max_steps=2, save_steps=2)
    with pytest.raises(ConfigError, match="max_steps: 2 before, 3 now.*--resume auto.*--overwrite"):
        tiny_run(output_dir=folder, max_steps=3, save_steps=2)
    with pytest.raises(ConfigError, match="add --overwrite"):
        tiny_run(output_dir=folder, max_steps=2, save_steps=2, resume="none")
    tiny_run(output_dir=folder, max_steps=3, save_steps=2, resume="auto")
    assert [r["step"] for r in training_rows(tmp_path)] == [1, 2, 3]
    (tmp_path / "kept.txt").write_text("mine")
    tiny_run(output_dir=folder, max_steps=1, overwrite=True)
    assert [r["step"] for r in training_rows(tmp_path)] == [1]
    assert (tmp_path / "kept.txt").exists()
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["max_steps"] == 1


def test_folder_of_a_model_is_not_written_over(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="holds a model already"):
        tiny_run(output_dir=str(tmp_path))


def test_finished_run_has_nothing_left_to_train(tmp_path):
    tiny_run(output_dir=str(tmp_path), max_steps=2)
    before = curve(tmp_path)
    trainer = tiny_run(output_dir=str(tmp_path), max_steps=2)
    assert trainer.state.global_step == 2
    assert curve(tmp_path) == before


def test_sampler_sees_everything_once_per_epoch_in_a_fresh_order():
    order = list(RunSampler(num_items=7, num_samples=16, seed=1))
    assert len(order) == 16
    assert sorted(order[:7]) == sorted(order[7:14]) == list(range(7))
    assert order[:7] != order[7:14]
    assert order == list(RunSampler(7, 16, 1))
    assert order[:10] == list(RunSampler(7, 10, 1))
    assert order != list(RunSampler(7, 16, 2))
    assert list(RunSampler(7, 16, 1, with_epochs=True)) == [(i // 7, item) for i, item in enumerate(order)]
