"""What is looked at in place of running a command that takes a network, a GPU, a window or an hour."""

import configparser
import importlib
import inspect
import io
import os
import re
import subprocess
from contextlib import redirect_stdout
from importlib.metadata import metadata
from pathlib import Path

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from packaging.specifiers import SpecifierSet
from page_blocks import ROOT, started, words

import openpali_cli  # pyright: ignore[reportMissingImports]
from openpali.data.files.config import find_config
from openpali.recipes.run.command_line import parse
from openpali.recipes.transfer import CLASSES, with_default_config

SETUP = configparser.ConfigParser(interpolation=None)
SETUP.read(ROOT / "setup.cfg", "utf-8")
LAUNCH = ROOT / "scripts" / "launch" / "train.sh"
GPUS_A_NODE = 8


def installs(command: str) -> None:
    """`pip install` of something that is there or required, with extras that it has."""
    parts = re.fullmatch(r"pip install ([\w.]+)(?:\[([\w,]+)\])?([<>]=?[\d.]+)?", command.replace('"', ""))
    assert parts, command
    name, extras, bound = parts.groups()
    wanted = set(filter(None, (extras or "").split(",")))
    listed = [SETUP["options"]["install_requires"], *SETUP["options.extras_require"].values()]
    if name in (".", "openpali"):
        assert wanted <= set(SETUP["options.extras_require"]), command
    else:
        assert wanted <= set(metadata(name).get_all("Provides-Extra") or ()), command
        found = re.search(rf"^{name}\b(?:\[.*?\])?(?:>=([\d.]+))?", "\n".join(listed), re.MULTILINE)
        assert found, command
        # setup.cfg admits a release within the bound
        assert not bound or SpecifierSet(bound).contains(found[1]), command


def transfers(command: str) -> None:
    """A transfer of a checkpoint that is not here: its configuration is found, and its options are understood."""
    module, arguments = started(command)
    assert module == "openpali.recipes.transfer"
    args, *_ = parse(CLASSES, [*with_default_config(arguments), "--use_cpu", "true"])
    assert args.model.startswith("google/")


def logs_in(command: str) -> None:
    """It is a command of the Hub's client."""
    from huggingface_hub.cli.auth import auth_login

    assert command == "hf auth login"
    assert "token" in inspect.signature(auth_login).parameters


def shows_curves(command: str) -> None:
    """What it shows is there."""
    *_, folder = words(command)
    assert list(Path(folder).glob("**/events.*"))


def serves(command: str) -> None:
    """Its folder is there, and its options are Transformers'."""
    from transformers.cli.serve import Serve

    _, verb, folder, *options = words(command)
    assert verb == "serve"
    assert Path(folder, "config.json").exists()
    known = inspect.signature(Serve.__init__).parameters
    assert {name.removeprefix("--").replace("-", "_") for name in options if name[:2] == "--"} <= set(known)


def begins(command: str) -> None:
    """A recipe whose data or model are too large for here: it comes as far as the folder of its run."""
    name, arguments = started(command)
    module = importlib.import_module(name)

    def stop(run, inputs):
        raise SystemExit(f"begins {run.output_dir}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "open_run", stop)
        with pytest.raises(SystemExit, match="begins outputs/"):
            module.main([*arguments, "--use_cpu", "--bf16", "false"])


def launches(command: str) -> None:
    """By train.sh, or by Slurm's script as it runs on the second node: launcher and recipe understand every word."""
    given, script, line = re.fullmatch(r"((?:\w+=\S+ )*)(.*train\.s\w+) (.*)", command).groups()  # type: ignore[union-attr]
    environment, nodes = dict(word.split("=") for word in given.split()), 1
    if script.startswith("sbatch "):
        nodes = int(script.split("--nodes ")[1].split()[0])
        environment |= {"NODES": str(nodes), "NODE_RANK": "1", "MAIN_IP": "10.0.0.1", "MAIN_PORT": "20001"}
    assert (ROOT / script.split()[-1]).is_file()
    planned = dry_run(environment, words(line))
    if environment.get("GPUS") == "1":
        begins(f"python {' '.join(planned[1:])}")
        return
    options = planned[planned.index("accelerate.commands.launch") + 1 :]
    args, *_ = _validate_launch_command(launch_command_parser().parse_args(options))
    assert args.num_processes == GPUS_A_NODE * nodes
    assert (args.num_machines, args.machine_rank) == (nodes, int(environment.get("NODE_RANK", 0)))
    assert args.main_process_ip == environment.get("MAIN_IP")
    begins(f"python -m {' '.join([args.training_script, *args.training_script_args])}")


def dry_run(given: dict[str, str], line: list[str]) -> list[str]:
    """The command that train.sh would run."""
    clean = {key: value for key, value in os.environ.items() if key not in ("GPUS", "ENGINE", "NODES")}
    environment = clean | given | {"DRY_RUN": "1"}
    done = subprocess.run(["bash", str(LAUNCH), *line], env=environment, capture_output=True, text=True, check=True)
    return words(done.stdout)


def makes(command: str) -> None:
    """The target is there, and what it runs is too: modules, which tell their options, scripts and configurations."""
    target = command.split()[1]
    ready = [word for file in (".venv/ready", ".venv/engines/ready") for word in ("--old-file", file)]
    planned = subprocess.run(["make", "-n", *ready, target], cwd=ROOT, capture_output=True, text=True)
    assert planned.returncode == 0, planned.stderr
    for module in re.findall(r"-m (openpali\.\S+)", planned.stdout):
        assert "usage:" in help_of(module)
    for name in re.findall(r"--config (\S+)", planned.stdout):
        find_config(name)
    for pattern in re.findall(r"[\w/*]+\.py\b", planned.stdout):
        compiles(f"python {pattern}")


def compiles(command: str) -> None:
    """A script of the checkout: Python can read it."""
    paths = sorted(ROOT.glob(words(command)[1]))
    assert paths, command
    for path in paths:
        compile(path.read_text("utf-8"), str(path), "exec")


def is_known(command: str) -> None:
    """A program or verb by its name, or a command with something left out: its options are those that it has."""
    given = [word for word in words(command.replace("[", "").replace("]", "")) if word not in ("…", "...")]
    if given[0] == "openpali":
        assert given[1] in openpali_cli.VERBS, command
        given = ["python", "-m", openpali_cli.VERBS[given[1]][0], *given[2:]]
    options = [word for word in given if word.startswith("--")]
    if "-m" in given:
        text = help_of(given[given.index("-m") + 1])
        assert all(re.search(rf"{option}\b", text) for option in options), command


def help_of(module: str) -> str:
    """What a module's --help says."""
    with redirect_stdout(io.StringIO()) as printed, pytest.raises(SystemExit, match="^0$"):
        importlib.import_module(module).main(["--help"])
    return printed.getvalue()
