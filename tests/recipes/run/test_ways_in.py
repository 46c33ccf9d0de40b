"""Every way to start a stage, each as a process of its own, on a tiny checkpoint and eight records."""

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image
from tiny_adapters import save_checkpoint

ROOT = Path(__file__).parents[3]
BIN = Path(sys.executable).parent
ENGINES = ROOT / "recipes" / "configs" / "accelerate"
MODULE = ["-m", "openpali.recipes.transfer"]
ACCELERATE = [str(BIN / "accelerate"), "launch"]
ALONE = "no engine, 1 process"
# a command, what its environment says, and the engine and the processes that must come of it
WAYS: dict[str, tuple[list[str], dict[str, str], str]] = {
    "openpali transfer": ([str(BIN / "openpali"), "transfer"], {}, ALONE),
    "python -m": ([sys.executable, *MODULE], {}, ALONE),
    "python recipes/transfer.py": ([sys.executable, str(ROOT / "recipes" / "transfer.py")], {}, ALONE),
    "accelerate launch": ([*ACCELERATE, *MODULE], {}, ALONE),
    "accelerate launch, one process": ([*ACCELERATE, "--num_processes", "1", *MODULE], {}, ALONE),
    "accelerate launch --cpu": ([*ACCELERATE, "--cpu", "--num-processes=2", *MODULE], {}, ALONE),
    "cpu.yaml": ([*ACCELERATE, "--config_file", str(ENGINES / "cpu.yaml"), *MODULE], {}, "DDP, 2 processes"),
    "ddp.yaml by train.sh": (
        ["bash", str(ROOT / "scripts" / "launch" / "train.sh"), "transfer"],
        {"GPUS": "2", "ENGINE": "ddp", "PYTHON": sys.executable, "MAIN_PORT": "0"},
        "DDP, 2 processes",
    ),
    # accelerate makes DDP of it on a CPU
    "fsdp2.yaml": (
        [*ACCELERATE, "--config_file", str(ENGINES / "fsdp2.yaml"), "--num_processes", "2"]
        + [str(ROOT / "tests" / "engines" / "as_on_gpus.py"), "openpali.recipes.transfer"],
        {"ACCELERATE_USE_CPU": "true"},
        "FSDP2, 2 processes",
    ),
    "torchrun": (
        # what the program of this name calls, see the test of that
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv_backend", "c10d"]
        + ["--rdzv_endpoint", "127.0.0.1:0", *MODULE],
        {},
        "DDP, 2 processes",
    ),
}
# DeepSpeed is not among what the tests need; `make test-engines` installs it and runs these here
DEEPSPEED = {"zero2.yaml": "DeepSpeed ZeRO-2, 2 processes", "zero3.yaml": "DeepSpeed ZeRO-3, 2 processes"}
WARNINGS = {
    "accelerate launch --cpu": [
        "Warning: accelerate launch --num_processes asks for 2 processes, and this run has 1:"
        " with --cpu accelerate starts one; see recipes/configs/accelerate/cpu.yaml"
    ]
}
SHORT = {"max_steps": 1, "tensorboard": "false", "eval_steps": 0, "test_limit": 2}
SHORT |= {"per_device_train_batch_size": 2, "suffix_max_length": 16, "task.max_new_tokens": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_tokenizer) -> Path:
    """A checkpoint and data beside it."""
    folder = tmp_path_factory.mktemp("ways")
    save_checkpoint("pali3", tiny_tokenizer, folder / "model")
    rows = [{"image": f"{i}.png", "prefix": "what is this?", "suffix": "a red dog"} for i in range(8)]
    for i, row in enumerate(rows):
        Image.new("RGB", (24, 20), (20 * i, 0, 99)).save(folder / row["image"])
    (folder / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def start(
    command: list[str], environment: dict[str, str], folder: Path, options: dict[str, object], model: str = "model"
) -> str:
    """What a run said, after its end."""
    words = ["transfers/jsonl"] if "train.sh" in command[1] else ["--config", "transfers/jsonl"]
    words += ["--model", model, "--data", "my.jsonl"]
    words += [word for key, value in options.items() for word in (f"--{key}", str(value))]
    # the launchers' own names for processes, ports and machines must be those of this command alone
    outside = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_", "ACCELERATE_", "GPUS", "ENGINE", "NODES", "FSDP_")
    clean = {key: value for key, value in os.environ.items() if not key.startswith(outside)}
    # a file of accelerate's in the home folder would be read too; no option says that there are only CPUs
    clean |= {"OMP_NUM_THREADS": "1", "HF_HOME": str(folder / "home"), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, *words], env=clean | environment, cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout + done.stderr


def must_have_trained(said: str, engine: str, folder: Path) -> None:
    """One step, on the requested processes, to a checkpoint and scores."""
    (line,) = [line for line in said.splitlines() if line.startswith("Engine: ")]
    assert line == f"Engine: {engine}, cpu, no mixed precision"
    processes = int(engine.split(", ")[1].split()[0])
    assert f"1 steps of {2 * processes} examples" in said
    logs = [json.loads(row) for row in (folder / "logs.jsonl").read_text().splitlines()]
    assert [row["step"] for row in logs if "loss" in row] == [1]
    assert {"config.json", "model.safetensors", "report.html"} <= {path.name for path in folder.iterdir()}
    assert json.loads((folder / "metrics.json").read_text())["plain"]["metrics"]["examples"] == 1


@pytest.mark.parametrize("way", WAYS)
def test_a_run_starts_with_the_processes_that_were_asked_for(way, folder, tmp_path):
    command, environment, engine = WAYS[way]
    options = SHORT | {"output_dir": tmp_path / "run"}
    said = start(command, environment, folder, options)
    must_have_trained(said, engine, tmp_path / "run")
    assert [line for line in said.splitlines() if line.startswith("Warning: ")] == WARNINGS.get(way, [])


@pytest.mark.parametrize("name", DEEPSPEED)
def test_a_run_starts_under_deepspeed(name, folder, tmp_path):
    command = [*ACCELERATE, "--config_file", str(ENGINES / name), "--num_processes", "2", *MODULE]
    options: dict[str, object] = SHORT | {"output_dir": tmp_path / "run"}
    if find_spec("deepspeed") is None:
        # accelerate has read the file, and says what is missing
        with pytest.raises(AssertionError, match="DeepSpeed is not installed"):
            start(command, {}, folder, options)
        return
    # accelerate asks DeepSpeed for an accelerator's backend unless it is told one
    said = start(command, {"DS_ACCELERATOR": "cpu"}, folder, options | {"ddp_backend": "gloo"})
    must_have_trained(said, DEEPSPEED[name], tmp_path / "run")


def test_every_shipped_engine_has_its_way_in():
    named = [word for way in [*WAYS, *DEEPSPEED] for word in way.split() if word.endswith(".yaml")]
    assert sorted(named) == sorted(path.name for path in ENGINES.glob("*.yaml"))


def test_torchrun_is_what_is_started_above():
    (torchrun,) = entry_points(group="console_scripts", name="torchrun")
    assert torchrun.value == "torch.distributed.run:main"


@pytest.mark.parametrize(("family", "peft"), [("pali3", "lora"), ("paligemma", "qlora")])
def test_adapters_train_in_two_processes_as_in_one(family, peft, folder, tmp_path, tiny_tokenizer):
    if not (folder / family).exists():
        save_checkpoint(family, tiny_tokenizer, folder / family)
    options = SHORT | {"max_steps": 2, "logging_steps": 1, "peft": peft, "text_dropout": 0}
    found = []
    for way, size in (("python -m", 4), ("cpu.yaml", 2)):
        command, environment, engine = WAYS[way]
        output = tmp_path / str(size)
        said = start(
            command,
            environment,
            folder,
            options | {"output_dir": output, "per_device_train_batch_size": size},
            model=family,
        )
        assert f"Engine: {engine}" in said
        logs = [json.loads(row) for row in (output / "logs.jsonl").read_text().splitlines()]
        found.append([(row["loss"], row["grad_norm"]) for row in logs if "loss" in row])
        assert (output / "adapter_model.safetensors").exists()
    assert len(found[0]) == 2
    # half the batch in each process is added up in another order
    for one, two in zip(*found):
        assert two == pytest.approx(one, rel=1e-3)
