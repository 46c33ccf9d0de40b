"""Ten kills at random moments of a two-process run with two loader workers each, against the uninterrupted run.

    OMP_NUM_THREADS=1 python tests/engines/ten_kills.py [--kills 10] [--steps 60] [--seed 0]

Each attempt is killed (SIGKILL, both processes or one, whose partner then ends by itself) after a random number of
steps and a random fraction of a step, also while a checkpoint is written. The last attempt may finish.
"""

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from tiny_stream_run import make_shards, started

from openpali import Pali3ForConditionalGeneration
from openpali.recipes.run.resume import last_checkpoint
from openpali.recipes.training.progress import read_log

SAVE_STEPS = 4


def curve(folder: Path) -> list[tuple]:
    """Step, loss, gradient norm and learning rate."""
    rows = [row for row in read_log(folder / "logs.jsonl") if "loss" in row]
    return [(row["step"], row["loss"], row["grad_norm"], row["lr"]) for row in rows]


def last_step(folder: Path) -> int:
    """The step that was logged last."""
    rows = curve(folder)
    return rows[-1][0] if rows else 0


def killed_run(folder: Path, rng: random.Random, options: dict[str, Any]) -> str | None:
    """Start or go on, kill, and say where; None where the run was over before."""
    begin = last_checkpoint(folder)
    first = int(begin.name.split("-")[1]) if begin else 0
    target = first + rng.randint(0, SAVE_STEPS + 3)
    children = started(2, output_dir=str(folder), **options)
    logged = folder / "logs.jsonl"
    before = logged.stat().st_mtime if logged.exists() else 0.0
    while all(child.is_alive() for child in children):
        fresh = logged.exists() and logged.stat().st_mtime > before
        if fresh and last_step(folder) >= target:
            break
        time.sleep(0.002)
    time.sleep(rng.random() * 0.2)
    victims = children if rng.random() < 0.5 else [rng.choice(children)]
    for child in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)
    for child in children:
        child.join(60)
        if child.is_alive():
            child.kill()
            child.join()
    if all(child.exitcode == 0 for child in children):
        return None
    torn = (folder / "unfinished").exists() and any((folder / "unfinished").iterdir())
    who = "both" if len(victims) == 2 else "one"
    return f"from step {first}, {who} killed at step {last_step(folder)}" + (", while saving" if torn else "")


def ten_kills(folder: Path, kills: int, steps: int, seed: int) -> int:
    """Runs both; returns how many kills there were.

    Raises:
        AssertionError: the joined curve or the weights are not those of the uninterrupted run.
    """
    make_shards(folder / "shards")
    options = {"shards": str(folder / "shards" / "s-{0..3}.tar"), "max_steps": steps, "save_steps": SAVE_STEPS}
    for child in (children := started(2, output_dir=str(folder / "whole"), **options)):
        child.join(600)
    assert [child.exitcode for child in children] == [0, 0]
    rng, done = random.Random(seed), 0
    while done < kills:
        where = killed_run(folder / "killed", rng, options)
        if where is None:
            break
        done += 1
        print(f"kill {done}: {where}", flush=True)
    for child in (children := started(2, output_dir=str(folder / "killed"), **options)):
        child.join(600)
    assert [child.exitcode for child in children] == [0, 0]
    assert curve(folder / "killed") == curve(folder / "whole"), "the curves differ"
    assert [row[0] for row in curve(folder / "killed")] == list(range(1, steps + 1))
    states = [
        Pali3ForConditionalGeneration.from_pretrained(folder / name).state_dict() for name in ("killed", "whole")
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0]), "the weights differ"
    return done


def main() -> None:
    """Exit with 1 if anything differs, or if the run ended before all kills."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in {"kills": 10, "steps": 60, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        done = ten_kills(Path(folder), args.kills, args.steps, args.seed)
    print(f"{done} kills; losses, gradient norms and weights of {args.steps} steps are those of the uninterrupted run")
    sys.exit(done < args.kills)


if __name__ == "__main__":
    torch.set_num_threads(1)
    # where other processes find the module that starts them
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")])
    )
    main()
