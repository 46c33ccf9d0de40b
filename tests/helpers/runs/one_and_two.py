"""A recipe on one process, and on two with batches half as large, which are to train the same."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import torch
from torch import multiprocessing as mp

EXAMPLES = 8  # of a step


def train(rank: int, processes: int, port: int, folder: Path, main: Callable[[list[str]], None], argv: list[str]):
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if processes > 1:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_PORT": port}
        os.environ |= {"MASTER_ADDR": "127.0.0.1"} | {key: str(value) for key, value in place.items()}
    options = ["--ddp_backend", "gloo"] if processes > 1 else []
    batch = ["--per_device_train_batch_size", str(EXAMPLES // processes)]
    main(["--output_dir", str(folder), *batch, *argv, *options])


def train_on_one_and_two(main: Callable[[list[str]], None], argv: list[str], folder: Path) -> None:
    """Runs in `folder/1` and `folder/2`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for processes in (1, 2):
        # forked: each would otherwise import the libraries again
        options = processes, port, folder / str(processes), main, argv
        mp.start_processes(train, options, processes, start_method="fork")  # pyright: ignore
