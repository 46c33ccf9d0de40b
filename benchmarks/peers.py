"""`python benchmarks/peers.py`: how other programs train PaliGemma, found out by experiment.

    python benchmarks/peers.py --only TRL
    python benchmarks/peers.py --newest

Every program is installed from PyPI into an environment of its own and trains the same random checkpoint on the same
three records; peers/probes.py asks its trainer what it does. The table goes to the screen and the answers to
benchmarks/results/peers.json. The first run installs about 8 GB; with that it took 21 minutes on two busy cores.
"""

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peers.checkpoint import VOCABULARY, save_checkpoint
from peers.environments import Environment, InstallError, make_environment
from peers.table import markdown, versions

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "peers.json"
LONGEST = 900


@dataclass(frozen=True)
class Peer:
    """A row: an environment, a file of peers/, one of its variants, and variables of its environment."""

    environment: str
    script: str
    variant: str
    variables: dict[str, str] = field(default_factory=dict)


INTERPRETED = {"TRITON_INTERPRET": "1"}
PEERS = {
    "Transformers' Trainer": Peer("transformers", "transformers_trainer", "stock"),
    "PEFT: LoRA": Peer("peft", "peft_lora", "lora"),
    "PEFT: LoRA, projector trained": Peer("peft", "peft_lora", "lora and projector"),
    "TRL: columns, Transformers' processor": Peer("trl", "trl_sft", "columns"),
    "TRL: columns, our processor": Peer("trl", "trl_sft", "columns, our processor"),
    "TRL: columns, our processor and class": Peer("trl", "trl_sft", "guide"),
    "TRL: the same, the papers' loss": Peer("trl", "trl_sft", "guide, the papers' loss"),
    "TRL: messages, our processor": Peer("trl", "trl_sft", "messages, our processor"),
    "TRL: suffix collator, Transformers' processor": Peer("trl", "trl_sft", "collator"),
    "LLaMA-Factory": Peer("llamafactory", "llama_factory", "full"),
    "Liger: all kernels": Peer("liger", "liger", "all"),
    "Liger: fused loss alone": Peer("liger", "liger", "fused loss"),
    "Liger: rotary kernel alone, interpreted": Peer("liger", "liger", "rotary", INTERPRETED),
    "openpali under Transformers' Trainer": Peer("openpali", "openpali_trainer", "trainer"),
    "openpali transfer": Peer("openpali", "openpali_trainer", "recipe"),
}


def ask(peer: Peer, environment: Environment, tiny: Path, large: Path, output: Path) -> dict[str, Any]:
    """The answers of a program; memory is measured in a process of its own, at the published vocabulary."""
    found = run(peer, environment, "--model", str(tiny), "--output", str(output / "run"))
    if "error" not in found:
        memory = run(peer, environment, "--memory", "--model", str(large), "--output", str(output / "memory"))
        found["memory"] = memory.get("memory", memory)
    if environment.notes:
        found["notes"] = environment.notes
    return found


def run(peer: Peer, environment: Environment, *options: str) -> dict[str, Any]:
    """Start a program's file; the line of JSON that it prints, or why there is none."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "TRITON"))}
    variables |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"} | peer.variables
    command = [str(environment.python), str(HERE / "peers" / f"{peer.script}.py"), "--variant", peer.variant]
    try:
        done = subprocess.run([*command, *options], capture_output=True, text=True, env=variables, timeout=LONGEST)
    except subprocess.TimeoutExpired:
        return {"error": f"no answer after {LONGEST} seconds"}
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        told = [line for line in done.stderr.splitlines() if line.strip()]
        return {"error": told[-1] if told else f"it ended with {done.returncode}"}
    return json.loads(lines[-1])


def main() -> None:
    """Ask every program, print the table and write the answers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path.home() / ".cache" / "openpali-peers", help="environments")
    parser.add_argument("--newest", action="store_true", help="newest releases instead of the pinned ones")
    parser.add_argument("--only", nargs="+", help="rows whose names begin with one of these; the others stay")
    parser.add_argument("--output", type=Path, default=RESULTS, help="file of the answers")
    options = parser.parse_args()
    chosen = {name: peer for name, peer in PEERS.items() if name.startswith(tuple(options.only or [""]))}
    if not chosen:
        parser.error(f"no row begins with {' or '.join(options.only)}: the rows are {', '.join(PEERS)}")
    rows = json.loads(options.output.read_text()) if options.only and options.output.exists() else {}
    for name, row in ask_all(chosen, options.folder.expanduser().absolute(), options.newest):
        rows[name] = row
        rows = {one: rows[one] for one in PEERS if one in rows}
        options.output.write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n", "utf-8")
    print(f"\n{markdown(rows)}\n{versions(rows)}\n{options.output}")


def ask_all(chosen: dict[str, Peer], folder: Path, newest: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each program's name and answers; one that cannot be installed or run tells why."""
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        save_checkpoint(work / "tiny")
        save_checkpoint(work / "large", side=224, patch=14, rows=VOCABULARY, width=64)
        for number, (name, peer) in enumerate(chosen.items()):
            print(f"{name} …", flush=True)
            try:
                environment = make_environment(peer.environment, folder, newest)
                yield name, ask(peer, environment, work / "tiny", work / "large", work / str(number))
            except InstallError as error:
                yield name, {"error": str(error)}


if __name__ == "__main__":
    main()
