"""Engines that distribute a run over processes: DDP, FSDP2 and DeepSpeed."""

import argparse
import contextlib
import os
import re
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml
from accelerate import Accelerator
from accelerate.commands.config.config_args import default_config_file
from accelerate.utils import DistributedType
from torch import nn
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel

NAMES = {
    DistributedType.NO: "no engine",
    DistributedType.MULTI_GPU: "DDP",
    DistributedType.MULTI_CPU: "DDP",
    DistributedType.FSDP: "FSDP",
}
# variables in which launchers give the number of processes
PROCESS_COUNT_VARIABLES = ("WORLD_SIZE", "OPENPALI_PROCESSES", "SLURM_NTASKS", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE")
# a launcher of accelerate by any of its names, in a command line whose words are separated by zero bytes
LAUNCHER = re.compile(
    r"(^|[\0/.])(accelerate\0launch|accelerate_cli(\.py)?\0launch|accelerate-launch|commands[./]launch(\.py)?)\0"
)
MODULE = ("-m", "--module")


def describe_engine(accelerator: Accelerator) -> str:
    """One line: engine, processes, device and precision."""
    count = accelerator.num_processes
    processes = "1 process" if count == 1 else f"{count} processes"
    precision = "no mixed precision" if accelerator.mixed_precision == "no" else accelerator.mixed_precision
    return f"Engine: {engine_name(accelerator)}, {processes}, {accelerator.device.type}, {precision}"


def engine_name(accelerator: Accelerator) -> str:
    """Name of the engine, with FSDP's version or ZeRO's stage."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return f"DeepSpeed ZeRO-{plugin_of(accelerator).zero_stage}"
    name = NAMES.get(accelerator.distributed_type, str(accelerator.distributed_type))
    return name + str(plugin_of(accelerator).fsdp_version) if name == "FSDP" else name


def plugin_of(accelerator: Accelerator) -> Any:
    """The settings of FSDP or DeepSpeed."""
    state = accelerator.state
    return state.fsdp_plugin if accelerator.distributed_type == DistributedType.FSDP else state.deepspeed_plugin


def launch_warnings(accelerator: Accelerator) -> list[str]:
    """Sentences about processes and engines that the launcher requested and this run does not have."""
    found, count = [], accelerator.num_processes
    requested = requested_processes()
    for source, number in requested.items():
        if number > count:
            found.append(f"{source} asks for {number} processes, and this run has {count}")
    if requested and found:
        found[-1] += ": with --cpu accelerate starts one; see recipes/configs/accelerate/cpu.yaml"
    wanted = {"ACCELERATE_USE_FSDP": DistributedType.FSDP, "ACCELERATE_USE_DEEPSPEED": DistributedType.DEEPSPEED}
    for name, kind in wanted.items():
        if os.environ.get(name, "").lower() == "true" and accelerator.distributed_type != kind:
            found.append(f"{name} is set, and this run has {engine_name(accelerator)}")
    return found


def requested_processes() -> dict[str, int]:
    """Requested numbers of processes by source: the environment, and a parent `accelerate launch`."""
    given = {name: os.environ.get(name, "") for name in PROCESS_COUNT_VARIABLES}
    found = {name: int(value) for name, value in given.items() if re.fullmatch(r"\d{1,9}", value)}
    # a launcher that starts one process does not put the requested number into the environment
    with contextlib.suppress(OSError):
        found |= accelerate_request(Path(f"/proc/{os.getppid()}/cmdline").read_bytes().decode(errors="replace"))
    return found


def accelerate_request(command: str) -> dict[str, int]:
    """The number of processes in a command line of `accelerate launch`, or in its configuration file.

    Args:
        command: of any program, words separated by zero bytes. One that cannot be parsed requests nothing, since the
            result only serves a warning.
    """
    begin = LAUNCHER.search(command)
    if begin is None:
        return {}
    # words behind the script are its own
    words = takewhile(lambda word: word not in MODULE and not word.endswith(".py"), command[begin.end() :].split("\0"))
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--num_processes", "--num-processes", type=int)
    parser.add_argument("--config_file", "--config-file")
    parser.add_argument("--cpu", action="store_true")
    # no command line that a user may write is worth an error here
    with contextlib.suppress(Exception):
        args, _ = parser.parse_known_args(list(words))
        if args.num_processes is not None:
            return {"accelerate launch --num_processes": args.num_processes}
        path = args.config_file or (None if args.cpu else default_config_file)
        if path and Path(path).is_file():
            return {f"num_processes in {path}": int(yaml.safe_load(Path(path).read_text("utf-8"))["num_processes"])}
    return {}


def set_fsdp_units(model: PreTrainedModel, accelerator: Accelerator) -> None:
    """Make the layers of all towers FSDP's units.

    Transformers' list for our models also names classes of other models with the same backbones, which accelerate
    refuses.
    """
    if accelerator.distributed_type == DistributedType.FSDP:
        kinds = {type(module).__name__ for module in model.modules()}
        layers = sorted(kind for kind in kinds if kind.endswith(("Layer", "Block")))
        plugin = plugin_of(accelerator)
        plugin.transformer_cls_names_to_wrap = plugin.transformer_cls_names_to_wrap or layers


@contextlib.contextmanager
def tables_in_root(model: PreTrainedModel) -> Iterator[None]:
    """Context in which FSDP keeps embedding tables in the unit of the whole model.

    accelerate would make units of their modules. But encoder and decoder share a table, which must not lie in two
    units, and our loss reads the LM head's weight without calling its module, which gathers nothing.
    """
    hidden: Any = model
    hidden.get_input_embeddings = hidden.get_output_embeddings = lambda: None
    try:
        yield
    finally:
        del hidden.get_input_embeddings, hidden.get_output_embeddings


@contextlib.contextmanager
def gathered(model: nn.Module, accelerator: Accelerator) -> Iterator[None]:
    """Context in which any submodule can be called, as generation calls the encoder alone.

    FSDP2 gathers the weights outside layers only when the whole model is called. DeepSpeed gathers each layer's.
    """
    units = unshard(model)
    try:
        yield
    finally:
        for unit in units:
            again = unit is not model and bool(plugin_of(accelerator).reshard_after_forward)
            unit.set_reshard_after_forward(again, recurse=False)
            unit.reshard()


def unshard(model: nn.Module) -> list[Any]:
    """Gather all weights of FSDP2 permanently, and return its units; an empty list for a model without FSDP2."""
    units: list[Any] = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    return units
