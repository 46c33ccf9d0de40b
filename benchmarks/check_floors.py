"""`python benchmarks/check_floors.py`: a quick version of each benchmark; ends with 1 if a ratio is below its floor.

    python benchmarks/check_floors.py train_step coco_check

`benchmarks/floors.yaml` has the commands and the floors. Ratios are of CPU time and memory, not of wall time. A floor
that needs a package that is not installed is skipped, and the last line says so.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent


def measured(command: str) -> list[dict[str, Any]]:
    """The results of one command.

    Raises:
        subprocess.CalledProcessError: it failed; its output was printed.
    """
    name, *options = command.split()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.jsonl"
        line = [sys.executable, str(HERE / f"{name}.py"), *options, f"--results={path}"]
        # its own table is of no interest, its complaints are
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
        return [json.loads(row) for row in path.read_text().splitlines()]


def rows_of(floor: dict[str, Any], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The results that a floor is about."""
    keys = [key for key in ("case", "against", "unit") if key in floor]
    return [row for row in rows if all(row[key] == floor[key] for key in keys)]


def verdicts(entry: dict[str, Any], rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """For each floor `ok`, `BELOW`, `SKIPPED` or `MISSING`, and its line."""
    found = []
    for floor in entry["floors"]:
        name = entry["command"].split()[0]
        title = f"{name}: {floor.get('case', '')} against {floor['against']}, {floor['unit']}".replace(":  ", ": ")
        if (needs := floor.get("needs")) and find_spec(needs) is None:
            found.append(("SKIPPED", f"{title}: {needs} is not installed"))
            continue
        matching = rows_of(floor, rows)
        if not matching:
            found.append(("MISSING", f"{title}: the benchmark has no such result. Fix benchmarks/floors.yaml."))
        for row in matching:
            word = "ok" if row["times"] >= floor["at_least"] else "BELOW"
            found.append((word, f"{title}: {row['times']:.2f} times, floor {floor['at_least']}"))
    return found


def main(argv: list[str] | None = None) -> int:
    """Print each ratio with its floor; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", help="benchmarks to check; all by default")
    names = parser.parse_args(argv).names
    entries = yaml.safe_load((HERE / "floors.yaml").read_text())
    known = {entry["command"].split()[0] for entry in entries}
    if unknown := sorted(set(names) - known):
        parser.error(f"{unknown[0]} has no floors; those that have: {', '.join(sorted(known))}")
    words = []
    for entry in entries:
        if names and entry["command"].split()[0] not in names:
            continue
        for word, line in verdicts(entry, measured(entry["command"])):
            words.append(word)
            print(f"{word:<8} {line}", flush=True)
    bad, skipped = sum(word in ("BELOW", "MISSING") for word in words), words.count("SKIPPED")
    print(f"{len(words)} floors: {bad} not held, {skipped} skipped")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
