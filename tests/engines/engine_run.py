"""Runs of seconds on the CPU under a shipped configuration of accelerate, in real processes of their own."""

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bitsandbytes  # noqa: F401  imported late otherwise, by each process anew
import peft  # noqa: F401
import torch
import transformers.trainer_seq2seq  # noqa: F401

sys.path += [str(Path(__file__).parents[1] / "helpers" / folder) for folder in ("models", "runs")]

from tiny_paligemma import tiny_paligemma, tiny_paligemma_processor
from tiny_run import Items, Killer, collate, tiny_model

from openpali.data.collator import Collator
from openpali.data.tokenizer import train_tokenizer
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.run.command_line import parse
from openpali.recipes.run.resume import open_run
from openpali.recipes.training.engines import engine_name
from openpali.recipes.training.trainer import run_training

HERE = str(Path(__file__).parent)
CONFIGS = Path(__file__).parents[2] / "recipes" / "configs" / "accelerate"
NAMES = {"ddp": "DDP", "fsdp2": "FSDP2", "zero2": "DeepSpeed ZeRO-2", "zero3": "DeepSpeed ZeRO-3"}
PROCESSES = 2


def accelerate_environment(engine: str) -> dict[str, str]:
    """What `accelerate launch --config_file` would give to its processes."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    argv = ["--config_file", str(CONFIGS / f"{engine}.yaml"), "--num_processes", str(PROCESSES), "script.py"]
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args([*argv, "--main_process_port", "0"]))
    if args.use_deepspeed:
        args.deepspeed_fields_from_accelerate_config = []
        environment = prepare_deepspeed_cmd_env(args)[1]
    else:
        environment = prepare_multi_gpu_env(args)
    return {key: value for key, value in environment.items() if os.environ.get(key) != value}


def present_cpu_as_gpu() -> None:
    """accelerate leaves FSDP to accelerators, and makes DDP of it on a CPU without a word."""
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def still(model: Any) -> Any:
    """Without dropout, which is another one in each process."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif "dropout" in vars(module):
            module.dropout = 0.0
    return model


class GemmaItems(torch.utils.data.Dataset):
    """Examples of PaliGemma whose answers have different lengths."""

    def __init__(self) -> None:
        from PIL import Image

        from openpali.data.example import Example

        answers = ["a red dog", "two", "two green cats", "dog en", "caption"]
        self.items = [
            Example(str(i), "t", (Image.new("RGB", (16, 16), (20 * i, 0, 99)),), "what is this", answers[i % 5])
            for i in range(10)
        ]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Any:
        return self.items[i]


def parts(family: str) -> tuple[Any, Any, Any]:
    """Model, data and collator of a family."""
    if family == "pali3":
        return still(tiny_model()), Items(), collate
    tokenizer = train_tokenizer(["what is this", "caption en", "a red dog", "two green cats", "detect dog"] * 4, 300)
    processor = tiny_paligemma_processor(tokenizer)
    return tiny_paligemma("gemma", processor), GemmaItems(), Collator(processor)


def one_run(family: str, engine: str | None, kill_at: int | None = None, **options: Any) -> None:
    """In this process; it may be one of several."""
    # accelerate asks DeepSpeed for an accelerator's backend unless it is told one
    cpu = {"ddp_backend": "gloo"} if engine in ("zero2", "zero3") else {"use_cpu": True}
    defaults = {"max_steps": 20, "learning_rate": 0.01, "logging_steps": 1, "tensorboard": False, "seed": 3} | cpu
    defaults |= {"max_grad_norm": 0.5, "save_steps": 8, "eval_steps": 5, "warmup_steps": 2}
    argv = [part for key, value in (defaults | options).items() for part in (f"--{key}", str(value))]
    (args,) = parse([RunArguments], argv)
    if engine == "fsdp2":
        present_cpu_as_gpu()
    model, data, collator = parts(family)

    def evaluate(model: Any) -> dict[str, float]:
        batch = collator([data[i] for i in range(4)])
        score = -model(**batch).loss.item()
        asked = {key: value for key, value in batch.items() if key not in ("labels", "token_type_ids")}
        if family == "paligemma":
            asked = {key: value[:1] for key, value in asked.items()}
        tokens = model.generate(**asked, max_new_tokens=3, do_sample=False)
        return {"negative_loss": score, "tokens": float(tokens.sum())}

    checkpoint = open_run(args)
    processor: Any = SimpleNamespace(save_pretrained=lambda folder: Path(folder, "processor.json").write_text("{}"))
    trainer = run_training(
        model,
        processor,
        args,
        data,
        collator,
        evaluate,
        "negative_loss",
        resume_from=checkpoint,
        callbacks=[Killer(kill_at, signal.SIGKILL)] if kill_at else [],
    )
    wanted = (NAMES[engine], PROCESSES) if engine else ("no engine", 1)
    assert (engine_name(trainer.accelerator), trainer.args.world_size) == wanted
    # as the report of a recipe does
    model.eval()
    with torch.no_grad():
        assert evaluate(model)["negative_loss"] < 0


def elsewhere(family: str, engine: str | None, **options: Any) -> list[int | None]:
    """A run in processes of its own, which share one import of the libraries; their exit codes."""
    environment = accelerate_environment(engine) if engine else {}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["engine_run"])
    # the server does not get this process's path
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [HERE, os.environ.get("PYTHONPATH")]))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    count = PROCESSES if engine else 1
    given = (family, engine, environment, port, options)
    children = [context.Process(target=child, args=(rank, count, *given)) for rank in range(count)]
    for process in children:
        process.start()
    for process in children:
        process.join(300)
    return [process.exitcode for process in children]


def child(
    rank: int, count: int, family: str, engine: str | None, environment: dict[str, str], port: int, options: dict
) -> None:
    """One process of a run."""
    torch.set_num_threads(1)
    os.environ |= environment
    if engine:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
        os.environ |= {"MASTER_ADDR": "127.0.0.1"} | {key: str(value) for key, value in place.items()}
    output = Path(options["output_dir"]).with_suffix(f".{rank}.txt")
    with output.open("a") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            try:
                one_run(family, engine, **options)
            except BaseException:
                import traceback

                traceback.print_exc()
                raise
            finally:
                if torch.distributed.is_initialized():
                    torch.distributed.destroy_process_group()
