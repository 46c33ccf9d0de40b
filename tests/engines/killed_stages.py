"""Each stage as its command runs it, killed at random moments (SIGKILL) and started again, against the same run whole.

    OMP_NUM_THREADS=1 python tests/engines/killed_stages.py [--stages siglip2 reward] [--kills 3] [--seed 0]

Log and weights must be those of the uninterrupted run, to the last bit: both do the same operations on the same
numbers, on one machine with one thread. `ten_kills.py` does the same to two processes.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file

from openpali.recipes.training.progress import read_log

CHECKOUT = Path(__file__).resolve().parents[2]
SCENES = {"name": "emoji", "split": "train", "size": 64, "concepts": 16, "objects": [1, 2], "length": 400}
RUN = {
    "max_steps": 12,
    "save_steps": 3,
    "eval_steps": 6,
    "logging_steps": 1,
    "eval_limit": 4,
    "per_device_train_batch_size": 8,
    "dataloader_num_workers": 1,
    "seed": 0,
}
TEXTS = {"source": SCENES, "languages": ["en"], "preset": "nano", "vocab_size": 512, "text_length": 24}
LATE = {"late_share": 0.5, "local_views": 2, "prototypes": 32, "head_width": 32, "head_bottleneck": 16}
STAGES: dict[str, tuple[str, dict[str, Any]]] = {
    "contrastive": ("contrastive", TEXTS),
    "naflex": (
        "contrastive",
        TEXTS | {"source": SCENES | {"aspect": [0.5, 2]}, "naflex": True, "sequence_lengths": [16, 36, 64]},
    ),
    "classification": ("classification", {"source": SCENES, "language": "en", "preset": "nano"}),
    "captioner": ("captioner", TEXTS | {"location_tasks": {"caption": 2, "refer": 1, "grounded_caption": 1}}),
    "siglip2": ("siglip2", TEXTS | LATE | {"decoder_layers": 2}),
    "reward": (
        "reward",
        {"model": "paligemma-nano", "source": SCENES | {"size": 96}, "task": {"name": "detect"}, "samples": 4},
    ),
    "lora": (
        "transfer",
        {"model": "paligemma-nano", "source": SCENES | {"size": 96}, "task": {"name": "detect"}, "peft": "lora"},
    ),
}


def started(verb: str, options: dict[str, Any], folder: Path) -> subprocess.Popen[bytes]:
    """The command of a stage, begun or resumed in a folder; its output goes to a file beside it."""
    config = folder.with_suffix(".yaml")
    config.write_text(yaml.safe_dump(options | RUN | {"output_dir": str(folder)}), "utf-8")
    with open(folder.with_suffix(".log"), "ab") as log:
        command = [sys.executable, "-m", "openpali_cli", verb, "--config", str(config)]
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=CHECKOUT)


def wait_well(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Wait for the end.

    Raises:
        SystemExit: it ended with an error.
    """
    if process.wait(900):
        log = folder.with_suffix(".log").read_text()
        raise SystemExit(f"error: {folder.name} ended with {process.returncode}:\n{log}")


def curve(folder: Path) -> list[dict[str, Any]]:
    """Lines of the log but for times and memory."""
    rows = read_log(folder / "logs.jsonl") if (folder / "logs.jsonl").is_file() else []
    kept = [{key: value for key, value in row.items() if not timing(key)} for row in rows]
    return [row for row in kept if len(row) > 1]


def timing(key: str) -> bool:
    """Whether a value of the log depends on the clock or the memory."""
    return any(word in key for word in ("per_second", "seconds", "time", "memory"))


def killed(verb: str, options: dict[str, Any], folder: Path, rng: random.Random) -> str | None:
    """Start or go on, kill after one to five more steps, and say where; None where the run was over before."""
    before = len(curve(folder))
    process = started(verb, options, folder)
    more = rng.randint(1, 5)
    while process.poll() is None and len(curve(folder)) < before + more:
        time.sleep(0.005)
    time.sleep(rng.random() * 0.5)
    process.send_signal(signal.SIGKILL)
    if process.wait() == 0:
        return None
    return f"killed at step {curve(folder)[-1]['step'] if curve(folder) else 0}"


def same_weights(first: Path, second: Path) -> bool:
    """Whether all weights below two folders are equal."""
    names = sorted(file.relative_to(first) for file in first.rglob("*.safetensors"))
    assert names, f"{first} has no weights"
    assert names == sorted(file.relative_to(second) for file in second.rglob("*.safetensors"))
    pairs = [(load_file(first / name), load_file(second / name)) for name in names]
    return all(one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one) for one, two in pairs)


def check(stage: str, folder: Path, kills: int, seed: int) -> int:
    """Run a stage whole and in pieces; returns how many kills there were.

    Raises:
        AssertionError: the log or the weights differ.
    """
    verb, options = STAGES[stage]
    whole, pieces = folder / "whole", folder / "pieces"
    wait_well(started(verb, options, whole), whole)
    rng, done = random.Random(seed), 0
    while done < kills and (where := killed(verb, options, pieces, rng)):
        done += 1
        print(f"{stage}: {where}", flush=True)
    wait_well(started(verb, options, pieces), pieces)
    assert curve(pieces) == curve(whole), f"{stage}: the logs differ"
    assert same_weights(whole, pieces), f"{stage}: the weights differ"
    return done


def main() -> None:
    """Exit with 1 if anything differs, or if a run ended before it was killed once."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stages", nargs="*", default=list(STAGES), choices=list(STAGES))
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for stage in args.stages:
        with tempfile.TemporaryDirectory() as folder:
            kills = check(stage, Path(folder), args.kills, args.seed)
        print(f"{stage}: {kills} kills; log and weights are those of the uninterrupted run", flush=True)
        if not kills:
            raise SystemExit(f"error: {stage} ended before it was killed")


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    main()
