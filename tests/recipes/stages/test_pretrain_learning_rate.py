"""Where a later stage enters the learning-rate curve, and components that warm up more slowly."""

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from openpali.data.files.config import ConfigError
from openpali.recipes.stages.mixture_log import MixtureLog
from openpali.recipes.stages.pretrain_learning_rate import (
    ComponentWarmup,
    StageArguments,
    continue_schedule,
    read_stage,
    save_stage,
)
from openpali.recipes.training.learning_rate import schedule
from openpali.recipes.training.progress import read_log


def stage(folder, **options: Any) -> StageArguments:
    defaults: dict[str, Any] = {"schedule": "rsqrt", "use_cpu": True, "max_steps": 100, "learning_rate": 0.5}
    defaults |= {"per_device_train_batch_size": 8}
    folder.mkdir(exist_ok=True)
    return StageArguments(output_dir=str(folder), **(defaults | options))


def multiplier(run: StageArguments, step: int) -> float:
    curve = schedule(run.schedule, run.get_warmup_steps(run.max_steps), run.max_steps, 0, run.rsqrt_timescale)
    return curve(step)


def three_stages(folder):
    first = stage(folder / "1", warmup_steps=20, rsqrt_timescale=40)
    save_stage(first)
    second = stage(folder / "2", per_device_train_batch_size=2, gradient_accumulation_steps=2)
    continue_schedule(second, str(folder / "1"))
    save_stage(second)
    third = stage(folder / "3", per_device_train_batch_size=16)
    continue_schedule(third, str(folder / "2"))
    return first, second, third


def test_three_stages_of_different_batches_are_one_curve_of_examples(tmp_path):
    first, second, third = three_stages(tmp_path)
    # 800 examples, then 400, at 8, 4 and 16 a step
    assert (second.schedule_start, third.schedule_start) == (200, 75)
    whole = schedule("rsqrt", 20 * 8, 10_000, 0, 40 * 8)
    for run, before, batch in ((first, 0, 8), (second, 800, 4), (third, 1200, 16)):
        for step in (0, 1, 50):
            assert multiplier(run, step) == pytest.approx(whole(before + step * batch))


def test_checkpoints_and_best_weights_of_a_run_are_their_own_places(tmp_path):
    three_stages(tmp_path)
    for name, file, content in (
        ("checkpoint-30", "trainer_state.json", {"global_step": 30}),
        ("best", "best.json", {"step": 60}),
    ):
        (tmp_path / "1" / name).mkdir()
        (tmp_path / "1" / name / file).write_text(json.dumps(content))
        run = stage(tmp_path / "next")
        continue_schedule(run, str(tmp_path / "1" / name))
        assert run.schedule_start == next(iter(content.values()))
    assert read_stage(tmp_path / "nowhere" / "model") is None


def test_what_is_given_is_kept_and_other_schedules_begin_anew(tmp_path):
    save_stage(stage(tmp_path / "1", warmup_steps=20))
    for options in ({"schedule_start": 0}, {"schedule_start": 70}, {"schedule": "cosine"}):
        run = stage(tmp_path / "2", warmup_steps=5, **options)
        continue_schedule(run, str(tmp_path / "1"))
        assert run.schedule_start == options.get("schedule_start")
        assert run.get_warmup_steps(100) == 5 - (run.schedule_start or 0)
    save_stage(stage(tmp_path / "1", schedule="cosine"))
    run = stage(tmp_path / "2")
    continue_schedule(run, str(tmp_path / "1"))
    assert run.schedule_start is None


def test_mistakes(tmp_path):
    save_stage(stage(tmp_path / "1", warmup_steps=200))
    with pytest.raises(ConfigError, match="ended within its warm-up: give schedule_start"):
        continue_schedule(stage(tmp_path / "2"), str(tmp_path / "1"))
    with pytest.raises(ConfigError, match="schedule_start=5 lies within the warm-up of 20 steps"):
        stage(tmp_path / "2", schedule_start=5, warmup_steps=20).get_warmup_steps(100)
    (tmp_path / "1" / "stage.json").write_text("{")
    with pytest.raises(ConfigError, match="stage.json cannot be read .*: give schedule_start"):
        continue_schedule(stage(tmp_path / "2"), str(tmp_path / "1"))


def test_a_slow_component_rises_under_the_schedule_of_all(tmp_path):
    run = stage(tmp_path / "run", component_warmup={"vision_tower": 4})
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 1.0, "component": name} for name in "ab"]
    groups[0]["component"] = "vision_tower"
    optimizer = torch.optim.SGD(groups)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    callback, rates = ComponentWarmup(run), []
    control: Any = None
    for step in range(6):
        state: Any = SimpleNamespace(global_step=step)
        callback.on_step_begin(run, state, control, optimizer=optimizer)
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    assert rates == [[min(1, n / 4) / (1 + n), 1 / (1 + n)] for n in range(6)]
    others = SimpleNamespace(param_groups=[{"component": "vision"}])
    with pytest.raises(ConfigError, match="no component 'vision_tower' trains; did you mean 'vision'"):
        callback.on_train_begin(run, state, control, optimizer=others)


class Counted(torch.nn.Module):
    def forward(self, x):
        return SimpleNamespace(loss=x.mean(), example_losses=x)


def test_a_resumed_run_counts_on_from_its_checkpoint(tmp_path):
    run = stage(tmp_path / "run")
    rows: Any = [SimpleNamespace(name=name, expected_examples=3) for name in ("a", "b")]

    def train(log: MixtureLog, begin: int, end: int) -> None:
        state: Any = SimpleNamespace(global_step=begin, is_world_process_zero=True)
        log.on_train_begin(run, state, cast(Any, None))
        for step in range(begin, end):
            batch = {"x": torch.tensor([1.0, 2.0, 6.0]), "entry": torch.tensor([0, step % 2, 1])}
            assert log.loss(Counted(), batch) == 3
            assert "entry" in batch
            state.global_step = step + 1
            with (run.folder / "logs.jsonl").open("a") as file:
                file.write(json.dumps({"step": step + 1} | log.log_values(state)) + "\n")

    whole = MixtureLog(rows, run)
    train(whole, 0, 4)
    # steps after the checkpoint are dropped from the log by RunLog; here they are passed over
    resumed = MixtureLog(rows, run)
    train(resumed, 2, 4)
    assert resumed.summed(resumed.seen) == whole.summed(whole.seen) == [6, 6]
    logged = [row for row in read_log(run.folder / "logs.jsonl") if row["step"] in (1, 2)]
    assert [(row["loss_a"], row["loss_b"]) for row in logged[:2]] == [(1.5, 6.0), (1.0, 4.0)]
