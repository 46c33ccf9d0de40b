"""Everything that the launch scripts would start can be parsed, by bash, by accelerate and by the recipes."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

from openpali.eval.answering.processes import joined
from openpali.recipes.training.engines import PROCESS_COUNT_VARIABLES, requested_processes

ROOT = Path(__file__).parents[3]
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
    assert set(recipes) == {"captioner", "contrastive", "denoise", "pretrain", "siglip2", "transfer"}
    assert len(recipes) >= 10


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


def test_processes_have_the_time_that_slurm_leaves_them_for_a_checkpoint(tmp_path):
    (signal_line,) = [line for line in SLURM.read_text().splitlines() if line.startswith("#SBATCH --signal TERM@")]
    (tmp_path / "python").write_text('#!/bin/bash\necho "$TORCH_ELASTIC_SHUTDOWN_TIMEOUT"\n')
    (tmp_path / "python").chmod(0o755)
    environment = os.environ | {"PYTHON": str(tmp_path / "python")}
    environment.pop("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", None)
    words = ["bash", str(LAUNCH), "pretrain", "pali3/stage1-224"]
    said = subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout
    assert 30 < int(said) < int(signal_line.split("@")[1])


@pytest.fixture
def launched_by(monkeypatch, tmp_path):
    """What is found where a process was started by a command, parted by spaces here."""
    for name in PROCESS_COUNT_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("openpali.recipes.training.engines.default_config_file", str(tmp_path / "default_config.yaml"))

    def asked(command: str) -> dict[str, int]:
        given = command.replace(" ", "\0").encode("utf-8", "surrogateescape") + b"\0"
        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_bytes", lambda self: given if self.name == "cmdline" else b"")
            return requested_processes()

    return asked


LAUNCHERS = ["python /bin/accelerate launch", "python -u -X dev /a b/bin/accelerate launch", "accelerate-launch"]
LAUNCHERS += ["python -m accelerate.commands.launch", "python -m accelerate.commands.accelerate_cli launch"]
LAUNCHERS += ["python /lib/accelerate/commands/launch.py"]


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize(
    "option", ["--num_processes 3", "--num_processes=3", "--num-processes 3", "--num-processes=3"]
)
def test_what_was_asked_of_a_launcher_above_is_found(launcher, option, launched_by):
    for rest in (f"--cpu {option} x.py", f"{option} -m openpali.recipes.transfer --num_processes 9"):
        assert launched_by(f"{launcher} {rest}") == {"accelerate launch --num_processes": 3}
    assert launched_by(f"{launcher} -m openpali.recipes.transfer --config x") == {}
    assert launched_by(f"{launcher} train.py {option}") == {}


NOTHING = ["", "python train.py --num_processes 3", "bash accelerate-runs/start.sh", "python /bin/accelerate"]
NOTHING += ["python /bin/accelerate config --num_processes 3", "accelerate tune.py launch --num_processes 3"]
NOTHING += [
    f"python /bin/accelerate launch{rest}"
    for rest in ("", " --num_processes", " --num_processes many x.py", " --num_processes= x.py", " \udcff x.py")
]
NOTHING += ["accelerate-launch --config_file x.py", "accelerate-launch --config_file none.yaml x.py"]


@pytest.mark.parametrize("command", NOTHING)
def test_a_command_line_that_asks_for_nothing_ends_no_run(command, launched_by):
    assert launched_by(command) == {}


def test_a_configuration_of_a_launcher_above_is_read(launched_by, tmp_path):
    cpu = ROOT / "recipes" / "configs" / "accelerate" / "cpu.yaml"
    assert launched_by(f"accelerate-launch --config_file {cpu} x.py") == {f"num_processes in {cpu}": 2}
    assert launched_by(f"accelerate-launch --config-file={cpu} --num_processes 1 x.py") == {
        "accelerate launch --num_processes": 1
    }
    default = tmp_path / "default_config.yaml"
    default.write_text("num_processes: 4\n")
    assert launched_by("accelerate-launch x.py") == {f"num_processes in {default}": 4}
    # accelerate does not read its own then
    assert launched_by("accelerate-launch --cpu x.py") == {}
    for content in ("num_processes: .inf", "num_processes: several", "num_processes:", "- 1", "", "a: [", "\0"):
        default.write_text(content)
        assert launched_by("accelerate-launch x.py") == {}
    default.write_bytes(b"\xff\xfe")
    assert launched_by("accelerate-launch x.py") == {}


@pytest.mark.parametrize("value", ["", "two", "2.0", "-1", "\u00b2", "9" * 5000])
def test_an_environment_that_says_no_number_ends_no_run(value, launched_by, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", value)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert launched_by("bash") == {"WORLD_SIZE": 2}
    monkeypatch.setenv("WORLD_SIZE", value if len(value) < 9 else "")
    with joined() as processes:
        assert processes.count == 1
