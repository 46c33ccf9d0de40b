"""Two processes fill the cache together, and train on it as one process trains on the images."""

import json
import os
import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from PIL import Image

from openpali.recipes import transfer
from openpali.recipes.features.cache import FOLDER

EXAMPLES = 8


def train(rank: int, processes: int, port: int, folder: Path, mode: str) -> None:
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if processes > 1:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_PORT": port}
        os.environ |= {"MASTER_ADDR": "127.0.0.1"} | {key: str(value) for key, value in place.items()}
    options = {"model": folder / "model", "data": folder / "records.jsonl", "output_dir": folder / mode}
    options |= {"feature_cache": mode, "freeze": "vision_tower", "use_cpu": "true", "tensorboard": "false"}
    options |= {"num_train_epochs": 3, "learning_rate": 1e-2, "logging_steps": 1, "test_limit": 1}
    options |= {"per_device_train_batch_size": 4 // processes} | ({"ddp_backend": "gloo"} if processes > 1 else {})
    transfer.main([str(part) for key, value in options.items() for part in (f"--{key}", value)])


def test_two_processes_share_the_work_and_the_features(tmp_path, tiny_model, tiny_processor):
    for part in (tiny_model, tiny_processor):
        part.save_pretrained(tmp_path / "model")
    lines = []
    for i in range(EXAMPLES + 2):
        Image.new("RGB", (20, 20 + i), (20 * i, 10, 255 - 20 * i)).save(tmp_path / f"{i}.png")
        lines.append(json.dumps({"image": f"{i}.png", "prefix": "caption en", "suffix": "a dog" if i % 2 else "en"}))
    (tmp_path / "records.jsonl").write_text("\n".join(lines))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for processes, mode in ((1, "off"), (2, "on")):
        # forked: each would otherwise import the libraries again
        mp.start_processes(train, (processes, port, tmp_path, mode), processes, start_method="fork")  # pyright: ignore
    losses = []
    for mode in ("off", "on"):
        rows = map(json.loads, (tmp_path / mode / "logs.jsonl").read_text().splitlines())
        losses.append([row["loss"] for row in rows if "loss" in row])
    assert len(losses[0]) == 6
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    # keys of 16 bytes: half of the images each
    parts = [path.stat().st_size // 16 for path in (tmp_path / FOLDER).glob("*/*.keys")]
    assert parts == [EXAMPLES // 2] * 2
