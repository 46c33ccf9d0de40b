"""Runs of `openpali reward` on tiny checkpoints of both families: resumed, on two processes, with adapters."""

import json
import os
import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from PIL import Image
from safetensors.torch import load_file
from tiny_adapters import FAMILIES, save_checkpoint

from openpali.recipes import reward
from openpali.recipes.rewards.parts import RewardParts
from openpali.recipes.rewards.record import SAMPLES_FILE, RewardLog
from openpali.recipes.training.progress import read_log

OPTIONS = {"use_cpu": True, "tensorboard": False, "per_device_train_batch_size": 4, "seed": 3}
OPTIONS |= {"logging_steps": 1, "save_steps": 2, "eval_limit": 2, "samples": 3}
OPTIONS |= {"learning_rate": 0.01, "task": "{name: plain, max_new_tokens: 6}", "dataloader_num_workers": 0}
OPTIONS |= {"components": "{score: 1, length: 0.5}", "schedule": "constant", "text_dropout": 0}
OPTIONS |= {"max_steps": 3}


NAMES = ("whole", "cut")


class PowerCut(Exception):
    """What stops a run in a test."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Custom data of twelve images, of one colour and a pixel each."""
    folder, rows = tmp_path_factory.mktemp("data"), []
    for i in range(12):
        image = Image.new("RGB", (24, 20), ("red", "lime", "blue")[i % 3])
        image.putpixel((i, i), (0, 0, 0))
        image.save(folder / f"{i}.png")
        rows.append({"image": f"{i}.png", "prefix": "what is this" if i % 2 else "caption en", "suffix": "a red dog"})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "rows.jsonl"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory, tiny_tokenizer):
    """A checkpoint of each family."""
    return {name: save_checkpoint(name, tiny_tokenizer, tmp_path_factory.mktemp(name)) for name in FAMILIES}


@pytest.fixture(autouse=True)
def short_end(monkeypatch):
    """The report at the end is another test's; so are the images of examples."""
    monkeypatch.setattr(reward, "final_report", lambda *args: [])
    monkeypatch.setattr(reward, "write_card", lambda *args: None)
    monkeypatch.setattr(reward.transfer, "save_examples", lambda *args: None)


@pytest.fixture
def letters(monkeypatch):
    """A score that tells the answers of a random model apart: how many different letters they have."""
    monkeypatch.setattr(RewardParts, "scores", lambda self, found, true: [len(set(text)) / 4 for text in found])


def line(checkpoint, data, folder, **options):
    chosen = OPTIONS | {"model": checkpoint, "data": data, "output_dir": folder} | options
    return [part for key, value in chosen.items() if value is not None for part in (f"--{key}", str(value))]


def weights(folder):
    (path,) = Path(folder).glob("*.safetensors")
    return load_file(path)


def curve(folder):
    """Everything that is logged of each step but its speed."""
    rows = [row for row in read_log(Path(folder) / "logs.jsonl") if row["step"]]
    return [{key: value for key, value in row.items() if key != "examples_per_second"} for row in rows]


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("pali3", {"kl": 0.1, "eval_steps": 2}),
        pytest.param(
            "paligemma",
            {"peft": "lora", "lora_rank": 2, "kl": 0.1, "train_samples": "first"},
            marks=pytest.mark.adapters,
        ),
    ],
)
def test_cut_and_resumed_equals_uninterrupted(
    checkpoints, data, tmp_path, monkeypatch, letters, one_thread, family, options
):
    reward.main(line(checkpoints[family], data, tmp_path / "whole", **options))
    show = RewardLog.show

    def cut(self, step, row):
        show(self, step, row)
        if step == 3:
            raise PowerCut

    monkeypatch.setattr(RewardLog, "show", cut)
    with pytest.raises(PowerCut):
        reward.main(line(checkpoints[family], data, tmp_path / "cut", **options))
    monkeypatch.setattr(RewardLog, "show", show)
    reward.main(line(checkpoints[family], data, tmp_path / "cut", **options))
    whole, again = curve(tmp_path / "whole"), curve(tmp_path / "cut")
    rewards = [[row for row in rows if "reward" in row] for rows in (whole, again)]
    assert rewards[0] == rewards[1]
    assert [row["step"] for row in rewards[0]] == [1, 2, 3]
    assert [row["loss"] for row in whole if "loss" in row] == [row["loss"] for row in again if "loss" in row]
    samples = [read_log(tmp_path / name / SAMPLES_FILE) for name in NAMES]
    assert samples[0] == samples[1]
    assert len(samples[0]) == 3
    assert len(samples[0][0]["answers"]) == 3
    first, second = (weights(tmp_path / name / "checkpoint-3") for name in NAMES)
    assert all(torch.equal(weight, second[name]) for name, weight in first.items())
    half = weights(tmp_path / "whole" / "checkpoint-2")
    assert any(not torch.equal(weight, half[name]) for name, weight in first.items())
    if "eval_steps" not in options:
        # without validations the last weights are kept, and not the start's
        final = weights(tmp_path / "whole")
        assert all(torch.equal(weight, final[name]) for name, weight in first.items())
    steps = [[row["step"] for row in read_log(tmp_path / name / "logs.jsonl") if "eval_loss" in row] for name in NAMES]
    assert steps[0] == steps[1] == ([0, 2, 3] if "eval_steps" in options else [])
    # the start is itself at the first step, and not at the last, also after resuming
    assert rewards[1][0]["kl"] == pytest.approx(0, abs=1e-6)
    assert rewards[1][-1]["kl"] > 1e-4


def train(rank, processes, port, argv):
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if processes > 1:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_PORT": port}
        os.environ |= {"MASTER_ADDR": "127.0.0.1"} | {key: str(value) for key, value in place.items()}
    batch = ["--per_device_train_batch_size", str(4 // processes), *(["--ddp_backend", "gloo"] * (processes > 1))]
    reward.main([*argv[processes], *batch])


def test_two_processes_train_as_one(checkpoints, data, tmp_path, letters):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # plain steps: Adam would make large ones of rounding
    options = {"optim": "sgd", "kl": 0.1, "learning_rate": 0.05}
    argv = {n: line(checkpoints["paligemma"], data, tmp_path / str(n), **options) for n in (1, 2)}
    for processes in (1, 2):
        mp.start_processes(train, (processes, port, argv), processes, start_method="fork")  # pyright: ignore
    one, two = (curve(tmp_path / str(processes)) for processes in (1, 2))
    assert len(one) == len(two)
    for alone, together in zip(one, two):
        for key in alone.keys() - {"padding"}:
            assert together[key] == pytest.approx(alone[key], abs=1e-6, rel=1e-5), (alone, together)
    assert len({row["loss"] for row in one if "loss" in row}) == 3
    first, second = (weights(tmp_path / str(processes)) for processes in (1, 2))
    for name, weight in first.items():
        torch.testing.assert_close(second[name], weight, atol=1e-6, rtol=0, msg=name)


def test_equal_rewards_are_said_loudly(checkpoints, data, tmp_path, capsys):
    reward.main(line(checkpoints["pali3"], data, tmp_path, components=None, max_steps=1, save_steps=9))
    said = capsys.readouterr().out
    assert "Warning: at step 1 the samples of each of 4 prompts have equal rewards, which gives no gradient" in said
    assert "all are 0: the model must answer some prompts by transfer first" in said
    start, end = weights(checkpoints["pali3"]), weights(tmp_path)
    assert all(torch.equal(weight, end[name]) for name, weight in start.items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 1}, "samples=1: the baseline of an answer is the mean reward of the others: 2 or more"),
        ({"top_k": 1}, "top_k=1: all samples would be the greedy answer"),
        ({"temperature": 0}, "temperature=0.0: it is above 0"),
        ({"pack_length": 64}, "pack_length: sampled answers are not packed; leave it out"),
        ({"label_smoothing": 0.1}, "label_smoothing: the loss is of the sampled tokens alone"),
        ({"components": "{score: 1, matches: 1}"}, "components: unknown part 'matches'"),
        ({"components": "{length: 1}"}, "components: no part rewards an answer"),
        ({"components": "{match: 1}"}, "match and duplicates are of boxes"),
        ({"components": "{score: -1}"}, "components: score: -1 is no weight of 0 or more"),
        ({"task": "{name: plain, metric: ''}"}, "the task 'plain' has no metric"),
        ({"task": "{name: plain, metric: bleurt}"}, "there is no metric 'bleurt'"),
        ({"loss_spike": 5}, "loss_spike: the loss is around 0"),
        ({"halve_on_out_of_memory": True}, "halve_on_out_of_memory: batches of samples cannot be halved"),
        ({"mix": "transfers/count"}, "mix: rewards are of one task"),
    ],
)
def test_what_cannot_work_is_refused_with_one_line(checkpoints, data, tmp_path, options, message):
    with pytest.raises(SystemExit) as stop:
        reward.main(line(checkpoints["pali3"], data, tmp_path / "run", **options))
    assert message in str(stop.value)
    assert "\n" not in str(stop.value).strip()
