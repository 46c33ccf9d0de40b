"""The table of engines in docs/engines.md, in some minutes on two cores.

    OMP_NUM_THREADS=1 python tests/engines/engines_table.py

A tiny PaLI-3 and a tiny PaliGemma, 20 steps of 4 examples with clipped gradients, in one process and under each engine
in two, whole, with accumulation, and killed after step 12 and resumed from step 8.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from engine_run import NAMES, elsewhere

import openpali
from openpali.recipes.training.progress import read_log

LOADABLE = (openpali.Pali3ForConditionalGeneration, openpali.PaliGemmaForConditionalGeneration)
HEAD = ["model", "engine", "loss", "gradient norm", "accumulation", "resumed", "consolidated", "best weights"]


def losses(folder: Path) -> dict[int, tuple[float, float]]:
    """Loss and gradient norm of each step."""
    return {r["step"]: (r["loss"], r["grad_norm"]) for r in read_log(folder / "logs.jsonl") if "loss" in r}


def scores(folder: Path) -> list[tuple[float, float]]:
    """Validation loss and sum of generated tokens."""
    rows = read_log(folder / "logs.jsonl")
    return [(r["eval_negative_loss"], r["eval_tokens"]) for r in rows if "eval_tokens" in r]


def difference(one: dict, two: dict, place: int, begin: int = 0) -> float:
    """The largest one between two runs."""
    assert one.keys() == two.keys(), (one.keys(), two.keys())
    return max(abs(one[step][place] - two[step][place]) for step in one if step >= begin)


def weights(family: str, folder: Path) -> dict[str, torch.Tensor]:
    """As any user would load them."""
    model = LOADABLE[family == "paligemma"].from_pretrained(folder)
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def apart(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    """The largest difference between weights."""
    assert one.keys() == two.keys()
    return max((one[name].float() - two[name].float()).abs().max().item() for name in one)


def run(family: str, engine: str | None, folder: Path, kill_at: int | None = None, **options) -> Path:
    """One run; raises with its output where it fails."""
    sizes = {"per_device_train_batch_size": 4 if engine is None else 2} | options
    codes = elsewhere(family, engine, output_dir=str(folder), kill_at=kill_at, **sizes)
    if any(codes) != bool(kill_at):
        said = "\n".join(path.read_text() for path in sorted(folder.parent.glob(f"{folder.name}.*.txt")))
        raise RuntimeError(f"{family} under {engine}: {codes}\n{said[-6000:]}")
    return folder


def row(family: str, engine: str, folder: Path, whole: Path) -> dict[str, float]:
    """What an engine gives, as differences from one process."""
    own = run(family, engine, folder / "whole")
    split = run(family, engine, folder / "split", per_device_train_batch_size=1, gradient_accumulation_steps=2)
    killed = run(family, engine, folder / "killed", kill_at=12)
    assert sorted(p.name for p in killed.glob("checkpoint-*")) == ["checkpoint-8"]
    run(family, engine, killed)
    reference = losses(whole)
    assert scores(own)[0][1] == scores(whole)[0][1], "other tokens are generated"
    return {
        "loss": difference(reference, losses(own), 0),
        "gradient norm": difference(reference, losses(own), 1),
        "accumulation": difference(reference, losses(split), 0),
        "resumed": difference(losses(own), losses(killed), 0),
        "consolidated": apart(weights(family, whole / "checkpoint-16"), weights(family, own / "checkpoint-16")),
        "best weights": apart(weights(family, whole), weights(family, own)),
    }


def main() -> None:
    """Print the table; exits with 1 if a loss is off by more than 1e-4."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engines", nargs="*", choices=list(NAMES), default=list(NAMES))
    parser.add_argument("--models", nargs="*", choices=["pali3", "paligemma"], default=["pali3", "paligemma"])
    args, failed = parser.parse_args(), False
    print("| " + " | ".join(HEAD) + " |\n|" + "---|" * len(HEAD), flush=True)
    for family in args.models:
        with tempfile.TemporaryDirectory() as folder:
            whole = run(family, None, Path(folder) / "one")
            for engine in args.engines:
                (Path(folder) / engine).mkdir()
                found = row(family, engine, Path(folder) / engine, whole)
                failed |= max(found["loss"], found["resumed"], found["accumulation"]) > 1e-4
                cells = [family, NAMES[engine], *(f"{value:.1e}" if value else "0" for value in found.values())]
                print("| " + " | ".join(cells) + " |", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
