"""Everything that the launch scripts would start can be parsed, by bash, by accelerate and by the recipes."""

import importlib
import os
import shlex
import subprocess
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

from openpali.recipes.engines import ASKED, asked_processes

ROOT = Path(__file__).parents[2]
LAUNCH, SLURM = ROOT / "scripts" / "launch" / "train.sh", ROOT / "scripts" / "slurm" / "train.sbatch"
ENGINES = sorted((ROOT / "recipes" / "configs" / "accelerate").glob("*.yaml"))
TYPES = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero2": "DEEPSPEED", "zero3": "DEEPSPEED", "cpu": "MULTI_GPU"}


def lines_of_stages() -> list[str]:
    """The commands of the table in the docs."""
    rows = [line for line in (ROOT / "docs" / "engines.md").read_text().splitlines() if line.startswith("| ")]
    return [row.split("`")[1] for row in rows if "train.sh" in row or "train.sbatch" in row]


@pytest.mark.parametrize("path", ENGINES, ids=lambda path: path.stem)
def test_accelerate_reads_each_configuration(path):
    config = load_config_from_file(str(path))
    assert isinstance(config, ClusterConfig)
    assert config.distributed_type.value == TYPES[path.stem]
    command = path.read_text().splitlines()[0].removeprefix("# accelerate launch ").split()
    assert command[:2] == ["--config_file", f"recipes/configs/accelerate/{path.name}"]
    args, *_ = _validate_launch_command(launch_command_parser().parse_args(["--config_file", str(path), *command[2:]]))
    assert args.module
    assert args.num_processes == (2 if path.stem == "cpu" else 8)
    kinds = (args.multi_gpu, args.use_fsdp, args.use_deepspeed)
    assert kinds == tuple(TYPES[path.stem] == kind for kind in ("MULTI_GPU", "FSDP", "DEEPSPEED"))
    if args.use_fsdp:
        assert args.fsdp_version == 2
    if args.use_deepspeed:
        assert args.zero_stage == int(path.stem[-1])


def test_docs_tell_a_line_for_every_stage():
    recipes = [line.split("train.s")[1].split()[1] for line in lines_of_stages()]
    assert set(recipes) == {"contrastive", "denoise", "pretrain", "transfer"}
    assert len(recipes) >= 10


@pytest.mark.parametrize("line", lines_of_stages())
def test_each_line_of_the_docs_starts_what_can_be_parsed(line, tmp_path, monkeypatch):
    words = shlex.split(line)
    script = next(i for i, word in enumerate(words) if "/train.s" in word)
    given = dict(word.split("=") for word in words[:script] if "=" in word)
    if words[0] == "sbatch":
        # what the script does on each node
        nodes = words[words.index("--nodes") + 1]
        given |= {"NODES": nodes, "NODE_RANK": "1", "MAIN_IP": "10.0.0.1", "MAIN_PORT": "20001"}
    command = dry_run(given, words[script + 1 :])
    if given.get("GPUS") != "1":
        options = command[command.index("accelerate.commands.launch") + 1 :]
        args, *_ = _validate_launch_command(launch_command_parser().parse_args(options))
        assert args.num_processes == 8 * int(given.get("NODES", 1))
        assert (args.num_machines, args.machine_rank) == (int(given.get("NODES", 1)), int(given.get("NODE_RANK", 0)))
        assert args.main_process_ip == given.get("MAIN_IP")
        command = [args.training_script, *args.training_script_args]
    else:
        command = command[command.index("-m") + 1 :]
    parses(command, tmp_path, monkeypatch)


def dry_run(given: dict[str, str], words: list[str]) -> list[str]:
    clean = {key: value for key, value in os.environ.items() if key not in ("GPUS", "ENGINE", "NODES")}
    done = subprocess.run(
        ["bash", str(LAUNCH), *words], env=clean | given | {"DRY_RUN": "1"}, capture_output=True, text=True, check=True
    )
    return shlex.split(done.stdout)


def parses(command: list[str], folder: Path, monkeypatch) -> None:
    module = importlib.import_module(command[0])

    def stop(run, inputs):
        raise SystemExit(f"parsed {run.output_dir}")

    monkeypatch.chdir(folder)
    monkeypatch.setattr(module, "open_run", stop)
    with pytest.raises(SystemExit, match="parsed outputs/"):
        module.main([*command[1:], "--use_cpu", "--bf16", "false"])


@pytest.mark.parametrize("script", [LAUNCH, SLURM], ids=lambda path: path.name)
def test_bash_parses_the_scripts(script):
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_slurm_starts_one_launcher_a_node_with_what_slurm_says(tmp_path):
    for name, text in {"scontrol": "echo node7; echo node8", "srun": 'shift; SLURM_NODEID=1 exec "$@"'}.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_JOB_ID": "30123", "DRY_RUN": "1"}
    environment = os.environ | slurm | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    words = ["bash", str(SLURM), "pretrain", "pali3/stage1-224"]
    done = subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    args = launch_command_parser().parse_args(shlex.split(done.stdout)[3:])
    assert (args.num_machines, args.machine_rank, args.num_processes) == (2, 1, 16)
    assert (args.main_process_ip, args.main_process_port) == ("node7", 30123)
    assert args.training_script_args == ["--config", "pali3/stage1-224"]


def test_what_was_asked_of_a_launcher_above_is_found(monkeypatch):
    for name in ASKED:
        monkeypatch.delenv(name, raising=False)
    command = b"python\0/bin/accelerate\0launch\0--cpu\0--num_processes\0003\0x.py\0"
    monkeypatch.setattr(Path, "read_bytes", lambda self: command if self.name == "cmdline" else b"")
    assert asked_processes() == {"accelerate launch --num_processes": 3}
    command = b"python\0train.py\0--num_processes\0003\0"
    assert asked_processes() == {}
