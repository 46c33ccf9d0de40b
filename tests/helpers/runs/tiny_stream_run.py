"""A run of seconds on tar shards, in this process or in others that may be killed."""

import io
import multiprocessing
import os
import random
import signal
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from tiny_run import Items, Killer, collate, tiny_model

from openpali.data.example import Example
from openpali.data.mixture import TaskDataset
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.run.command_line import parse
from openpali.recipes.run.datasets import load_splits, make_dataset, mix_datasets
from openpali.recipes.run.resume import open_run
from openpali.recipes.training.trainer import PaliTrainer, run_training
from openpali.scripts.web.running.files import write_shard


class Numbered:
    """The record's number, and a random one."""

    name = "numbered"
    metric = metric_key = "none"
    max_new_tokens = 1

    def example(self, record: dict[str, Any], rng: random.Random) -> Example | None:
        return Example(record["id"], self.name, (), record["captions"]["en"], str(rng.randrange(1000)))

    def prediction(self, text: str, example: Example) -> str:
        return text

    def reference(self, example: Example) -> str:
        return example.suffix


def make_shards(folder: Path, shards: int = 4, size: int = 11) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    for shard in range(shards):
        numbers = range(shard * size, (shard + 1) * size)
        samples = ((f"{n:04}", {"png": file.getvalue(), "txt": str(n).encode()}) for n in numbers)
        write_shard(folder / f"s-{shard}.tar", samples)


class Collate:
    """Tensors that depend on the record and on the task's choice; the numbers are also written down."""

    def __init__(self, seen: Path, process: int):
        self.seen = seen.with_suffix(f".{process}")

    def __call__(self, examples: list[Example]) -> dict[str, torch.Tensor]:
        with self.seen.open("a") as file:
            file.write(" ".join(example.prefix for example in examples) + "\n")
        return collate([Items()[int(example.prefix) * 1000 + int(example.suffix)] for example in examples])


def tiny_stream_run(
    shards: str, kill_at: int | None = None, kill_with: int = signal.SIGKILL, mixed: bool = False, **options: Any
) -> PaliTrainer:
    defaults = {"max_steps": 9, "per_device_train_batch_size": 2, "learning_rate": 0.02, "logging_steps": 1}
    defaults |= {"save_steps": 4, "tensorboard": False, "use_cpu": True, "seed": 3, "dataloader_num_workers": 2}
    argv = [part for key, value in (defaults | options).items() for part in (f"--{key}", str(value))]
    (args,) = parse([RunArguments], argv)
    checkpoint = open_run(args)
    parts = load_splits(
        {"name": "webdataset", "path": shards, "shuffle": 5, "open_shards": 2, "validation_size": 2}, args
    )
    data: Any = make_dataset(parts["train"], Numbered(), args)
    if mixed:
        by_number = TaskDataset(parts["validation"], Numbered(), args.seed)
        data = mix_datasets({"stream": data, "number": by_number}, {"stream": 3, "number": 1}, args)
    processor: Any = SimpleNamespace(save_pretrained=lambda folder: Path(folder, "processor.json").write_text("{}"))
    return run_training(
        tiny_model(),
        processor,
        args,
        data,
        Collate(args.folder / "seen", args.process_index),
        resume_from=checkpoint,
        callbacks=[Killer(kill_at, kill_with)] if kill_at else [],
    )


def elsewhere(processes: int = 1, **options: Any) -> list[int | None]:
    """Run in other processes; returns their exit codes."""
    children = started(processes, **options)
    for process in children:
        process.join(120)
    return [process.exitcode for process in children]


def started(processes: int, **options: Any) -> list[Any]:
    """Other processes, which share one import of the libraries and run."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tiny_stream_run"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = [context.Process(target=child, args=(rank, processes, port, options)) for rank in range(processes)]
    for process in children:
        process.start()
    return children


def child(rank: int, processes: int, port: int, options: dict[str, Any]) -> None:
    # loader workers would otherwise come from a server of their own, and outlive a killed run
    multiprocessing.set_start_method("fork", force=True)
    torch.set_num_threads(1)
    if processes > 1:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_PORT": port}
        os.environ |= {"MASTER_ADDR": "127.0.0.1"} | {key: str(value) for key, value in place.items()}
    trainer = tiny_stream_run(**options)
    assert trainer.args.world_size == processes
