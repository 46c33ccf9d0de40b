"""`make comparisons`: train the variants of the papers' comparisons at a small scale, and keep every score.

    python benchmarks/comparisons/run.py                    # every row
    python benchmarks/comparisons/run.py 01 06 --workers 2  # some, by the beginnings of their names

Each step is a command of `openpali` in a process of its own on one thread, `--workers` of them at a time. Steps that
several variants share run once. A step that was stopped resumes at its last checkpoint, a finished one is not run
again; with `--missing` neither is a variant whose scores the results have of the same steps, say from another machine.
The scores of each variant and seed are a line of `benchmarks/results/comparisons.jsonl`, with the CPU time,
the commands and the versions; `page.py` makes the page of the docs from them. `--plan` prints what would run.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from plan import Chain, Step, chains, read_rows
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "comparisons.jsonl"
DONE, LOG, CONFIG = "comparison.json", "comparison.log", "comparison.yaml"
PACKAGES = ("torch", "transformers", "openpali")


def finished(step: Step, folder: Path) -> bool:
    """Whether a step has ended well."""
    return (folder / step.key / DONE).is_file()


def run_step(step: Step, folder: Path) -> None:
    """Run or resume a step, to its end; its log and its CPU seconds stay in its folder.

    Raises:
        RuntimeError: the command failed.
    """
    target = folder / step.key
    target.mkdir(parents=True, exist_ok=True)
    command = step_command(step, folder)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with open(target / LOG, "a", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=ROOT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{step.name} ended with {process.returncode}; its log is {target / LOG}")
    for weights in target.glob("checkpoint-*"):
        shutil.rmtree(weights)
    said = {"cpu_seconds": usage.ru_utime + usage.ru_stime, "command": command[2:]}
    (target / DONE).write_text(json.dumps(said) + "\n")


def step_command(step: Step, folder: Path) -> list[str]:
    """The command of a step; a training reads a file of options, which is written here."""
    openpali, options = str(Path(sys.executable).with_name("openpali")), step.resolved(folder)
    if step.folder_option == "output_dir":
        file = folder / step.key / CONFIG
        file.write_text(yaml.safe_dump(options, sort_keys=False), "utf-8")
        return [sys.executable, openpali, step.verb, "--config", str(file)]
    given: list[str] = []
    for name, value in options.items():
        if isinstance(value, list):  # of words
            given += [f"--{name}", *map(str, value)]
        else:
            given.append(f"--{name}={value if isinstance(value, str) else json.dumps(value)}")
    return [sys.executable, openpali, step.verb, *given]


def found_scores(chain: Chain, content: dict[str, Any], folder: Path) -> dict[str, float]:
    """The row's measures: `STEP:KEY`, where KEY is of the step's last validation, or a path in its metrics.json."""
    scores = {}
    for name in content["measures"]:
        target, key = measured_in(chain, content, name, folder)
        if target is not None and (value := read_score(target, key)) is not None:
            scores[name] = value
    return scores


def found_curves(chain: Chain, content: dict[str, Any], folder: Path) -> dict[str, list[list[float]]]:
    """Step and value at every validation, of the measures that the row lists under `curves`."""
    curves = {}
    for name in content.get("curves", []):
        target, key = measured_in(chain, content, name, folder)
        rows = read_log(target) if target is not None else []
        curves[name] = [[row["step"], row[f"eval_{key}"]] for row in rows if f"eval_{key}" in row]
    return curves


def measured_in(chain: Chain, content: dict[str, Any], name: str, folder: Path) -> tuple[Path | None, str]:
    """The folder of the step that a measure is of, None where the chain has no such step, and its key there."""
    step_name, key = content["measures"][name].split(":")
    return next((folder / step.key for step in chain.steps if step.name == step_name), None), key


def read_score(folder: Path, key: str) -> float | None:
    """One score of a step's folder, `*` in its path being any name; None where it has none."""
    metrics = json.loads(file.read_text("utf-8")) if (file := folder / "metrics.json").is_file() else {}
    for part in key.split("."):
        inside = metrics if isinstance(metrics, dict) else {}
        metrics = next(iter(inside.values()), None) if part == "*" else inside.get(part)
    if isinstance(metrics, (int, float)):
        return float(metrics)
    rows = reversed(read_log(folder))
    return next((float(row[f"eval_{key}"]) for row in rows if f"eval_{key}" in row), None)


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Lines of a step's log; none where it has none."""
    log = folder / "logs.jsonl"
    return [json.loads(line) for line in log.read_text("utf-8").splitlines()] if log.is_file() else []


def result_line(chain: Chain, content: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The line of the results for a finished chain."""
    steps = {step.name: json.loads((folder / step.key / DONE).read_text()) for step in chain.steps}
    curves = found_curves(chain, content, folder)
    return {
        "row": chain.row,
        "variant": chain.variant,
        "seed": chain.seed,
        "scores": found_scores(chain, content, folder),
        **({"curves": curves} if curves else {}),
        "steps": {step.name: step.key for step in chain.steps},
        "cpu_seconds": {step.name: round(steps[step.name]["cpu_seconds"], 1) for step in chain.steps},
        "options": {step.name: {"verb": step.verb} | step.options for step in chain.steps},
        "versions": {name: version(name) for name in PACKAGES},
    }


def write_results(lines: dict[tuple[str, str, int], dict[str, Any]], file: Path) -> None:
    """Replace the results, sorted, so that the order of the runs does not show."""
    text = "".join(json.dumps(lines[name]) + "\n" for name in sorted(lines))
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(text, "utf-8")
    part.replace(file)


def read_results(file: Path = RESULTS) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Lines of the results by row, variant and seed."""
    lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.is_file() else []
    return {(line["row"], line["variant"], line["seed"]): line for line in lines}


def has_scores(chain: Chain, lines: dict[tuple[str, str, int], dict[str, Any]]) -> bool:
    """Whether the results have a line of the chain, of the same steps with the same options."""
    return chain.name in lines and lines[chain.name]["steps"] == {step.name: step.key for step in chain.steps}


def run_all(todo: list[Chain], rows: dict[str, Any], folder: Path, workers: int, results: Path) -> list[str]:
    """Run all chains; returns a line for each step that failed."""
    steps = {step.key: step for chain in todo for step in chain.steps}
    waiting = [key for key, step in steps.items() if not finished(step, folder)]
    done, failures = set(steps) - set(waiting), dict[str, str]()
    lines = read_results(results)

    def keep_finished() -> None:
        for chain in todo:
            if all(step.key in done for step in chain.steps):
                lines[chain.name] = result_line(chain, rows[chain.row], folder)
        write_results(lines, results)

    running: dict[Future[None], str] = {}
    bar = tqdm(total=len(steps), initial=len(done), desc="steps", unit="step")
    with ThreadPoolExecutor(workers) as pool:
        while True:
            keep_finished()
            for key in [key for key in waiting if set(steps[key].needs) <= done][: workers - len(running)]:
                waiting.remove(key)
                running[pool.submit(run_step, steps[key], folder)] = key
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                key = running.pop(future)
                if error := future.exception():
                    failures[key] = str(error)
                    tqdm.write(f"failed: {error}")
                else:
                    done.add(key)
                    bar.update()
    bar.close()
    return [*failures.values(), *[f"{steps[key].name} was not run: a step before it failed" for key in waiting]]


def main() -> None:
    """Run the rows that are named, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("rows", nargs="*", help="beginnings of rows' names; all rows when left out")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 1)))
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs" / "comparisons", help="of all runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file of the scores")
    parser.add_argument("--tiny", action="store_true", help="two steps of each training, to see that all commands run")
    parser.add_argument("--missing", action="store_true", help="run only what the results have no scores of")
    parser.add_argument("--plan", action="store_true", help="print the steps and their number, and run nothing")
    options = parser.parse_args()
    rows = read_rows(options.rows)
    if options.tiny and options.results == RESULTS:
        options.results = options.folder / RESULTS.name
    todo = [chain for name, content in rows.items() for chain in chains(name, content, options.tiny)]
    if options.missing:
        lines = read_results(options.results)
        todo = [chain for chain in todo if not has_scores(chain, lines)]
    every = {step.key: step for chain in todo for step in chain.steps}
    left = [step for step in every.values() if not finished(step, options.folder)]
    print(f"{len(rows)} rows, {len(todo)} variants and seeds, {len(every)} steps, {len(left)} of them to run")
    if options.plan:
        for chain in todo:
            print(
                f"{chain.row}  {chain.variant}  seed {chain.seed}: "
                + ", ".join(f"{s.name} {s.key}" for s in chain.steps)
            )
        return
    if failures := run_all(todo, rows, options.folder, options.workers, options.results):
        raise SystemExit("error: " + "; ".join(failures))


if __name__ == "__main__":
    main()
