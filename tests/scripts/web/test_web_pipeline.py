"""`openpali web` as a user starts it: in processes of its own, killed, started again, and on two nodes."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import yaml
from pyarrow import parquet
from raw_web import write_raw_web
from tiny_siglip import tiny_siglip

from openpali.data.sources.webdataset import WebDataset

pytest.importorskip("ray")
OPENPALI = str(Path(sys.executable).with_name("openpali"))


@pytest.fixture(scope="module")
def web(tmp_path_factory) -> tuple[Path, set[str], set[str]]:
    """A folder with raw shards, evaluation images and a configuration; names of planted copies and leaks."""
    folder = tmp_path_factory.mktemp("web")
    copies, leaks = write_raw_web(folder)
    model, processor = tiny_siglip()
    model.save_pretrained(folder / "siglip")
    processor.save_pretrained(folder / "siglip")
    steps = [
        "text_rules",
        {"name": "image_rules", "least_side": 32},
        "hashes",
        {"name": "evaluation_images", "against": [str(folder / "evaluation")]},
        {"name": "duplicates", "parts": 3},
        {"name": "similarity", "model": str(folder / "siglip"), "batch_size": 8},
        {"name": "best_share", "share": 0.5},
    ]
    config = {"input": [str(folder / "raw")], "language": "en", "workers": 2, "steps": steps}
    (folder / "web.yaml").write_text(yaml.safe_dump(config))
    return folder, copies, leaks


def command(folder: Path, output: str, *more: str) -> list[str]:
    return [OPENPALI, "web", "--config", str(folder / "web.yaml"), "--output", str(folder / output), *more]


def run(folder: Path, output: str, *more: str) -> str:
    done = subprocess.run(command(folder, output, *more), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def made(web) -> tuple[Path, str]:
    """The folder that a run made, and what it printed."""
    folder = web[0]
    return folder / "out", run(folder, "out")


def contents(output: Path) -> dict[str, bytes]:
    files = [path for name in ("shards", "index", "tables") for path in (output / name).rglob("*") if path.is_file()]
    files += [output / "counts.json", output / "skipped_records.jsonl"]
    return {str(path.relative_to(output)): path.read_bytes() for path in sorted(files)}


def dropped(output: Path, step: str) -> dict[str, str]:
    """Names of what a step has dropped, with the reason, without the damaged shards."""
    found = {}
    for path in sorted((output / "tables" / step).glob("0*.parquet")):
        rows = parquet.read_table(path).to_pylist()
        found |= {f"{path.stem}:{row['key']}": row["drop"] for row in rows if row["drop"]}
    return found


def kept_by(output: Path, step: str) -> set[str]:
    """Names of what a step has kept."""
    tables = {path.stem: parquet.read_table(path).to_pylist() for path in (output / "tables" / step).glob("*.parquet")}
    return {f"{name}:{row['key']}" for name, rows in tables.items() for row in rows if not row["drop"]}


def test_what_was_planted_is_found_and_the_rest_is_kept(web, made):
    (_, copies, leaks), (output, text) = web, made
    assert set(dropped(output, "04-evaluation_images")) == leaks
    assert set(dropped(output, "05-duplicates")) == copies
    texts = dropped(output, "01-text_rules")
    assert set(texts) == {f"{shard:04d}:0008" for shard in range(4)}
    assert set(texts.values()) == {"caption with an address"}
    skipped = [json.loads(line) for line in (output / "skipped_records.jsonl").read_text().splitlines()]
    reasons = {f"{row['file']}:{row['record']}": row["reason"] for row in skipped}
    assert "leads out of the shard" in reasons["hostile.tar:../../out"]
    assert "leads out of the shard" in reasons["hostile.tar:abs"]
    assert "not JSON" in reasons["hostile.tar:json"]
    assert "link" in reasons["hostile.tar:link"]
    assert {f"{shard:04d}.tar:0009" for shard in range(4)} <= set(reasons)
    assert any(name.startswith("short.tar") and "ends too early" in reason for name, reason in reasons.items())
    counts = json.loads((output / "counts.json").read_text())
    assert counts["unusable"] == len(skipped)
    lost = sum(sum(step["dropped"].values()) for step in counts["steps"])
    assert counts["samples"] == counts["unusable"] + lost + counts["kept"]
    assert f"{counts['kept']:,} samples kept" in text


def test_what_is_made_is_a_source(made):
    output, _ = made
    source = WebDataset(str(output / "shards"))
    records = list(source.records())
    counts = json.loads((output / "counts.json").read_text())
    assert len(records) == counts["kept"] > 10
    assert all(record["captions"]["en"] and record["image"].size for record in records)
    index = [row for path in (output / "index").glob("*.parquet") for row in parquet.read_table(path).to_pylist()]
    assert {f"{row['shard']}:{row['key']}" for row in index} == {record["id"] for record in records}
    assert all(row["languages"] == ["en"] for row in index)


def test_half_of_the_pairs_are_the_best_half(made):
    output, _ = made
    scores = {}
    for path in sorted((output / "tables" / "06-similarity").glob("*.parquet")):
        scores |= {f"{path.stem}:{row['key']}": row["score"] for row in parquet.read_table(path).to_pylist()}
    lost = {name for name in scores if name not in kept_by(output, "07-best_share")}
    assert abs(len(lost) - len(scores) / 2) <= 1
    threshold = json.loads((output / "tables" / "07-best_share" / "thresholds.json").read_text())["thresholds"]["en"]
    assert all((scores[name] < threshold) == (name in lost) for name in scores)
    # the sketch's error is a thousandth of the score
    median = sorted(scores.values())[(len(scores) - 1) // 2]
    assert abs(threshold - median) <= 0.001 * abs(median) + 1e-12


def workers(parent: int) -> list[int]:
    """Processes of Ray's workers below a process."""
    found, waiting = [], [parent]
    while waiting:
        own = waiting.pop()
        for task in Path(f"/proc/{own}/task").glob("*/children"):
            try:
                waiting += [int(number) for number in task.read_text().split()]
            except OSError:
                continue
        try:
            name = Path(f"/proc/{own}/cmdline").read_bytes()
        except OSError:
            continue
        # not Ray's own agents, without which it ends
        if name.startswith((b"ray::Map", b"ray::IDLE")):
            found.append(own)
    return found


def until(happened, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_worker_and_a_killed_run_change_nothing(web, made):
    folder, output = web[0], web[0] / "killed"
    with open(folder / "killed.log", "w") as log:
        process = subprocess.Popen(command(folder, "killed"), stdout=log, stderr=log, start_new_session=True)
        # a worker in the midst of the first pass, then the whole run in the midst of the similarities
        until(lambda: (output / "attempts" / "01-text_rules").exists())
        victims = workers(process.pid)
        assert victims
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        until(lambda: (output / "attempts" / "06-similarity").exists() or process.poll() is not None)
        assert process.poll() is None, (folder / "killed.log").read_text()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not (output / "counts.json").exists()
    before = {path: path.stat().st_mtime_ns for path in (output / "tables").rglob("0*.parquet")}
    assert len(before) >= 4 * 6
    run(folder, "killed")
    assert contents(output) == contents(made[0])
    # what was there is not done again
    assert {path: path.stat().st_mtime_ns for path in before} == before


def started(log: Path):
    """Whether a node's log says that it runs."""
    return lambda: "Ray runtime started" in log.read_text()


@pytest.fixture
def two_nodes(monkeypatch) -> Iterator[str]:
    """Address of a cluster of two nodes on this machine, each with one CPU and a folder of its own."""
    ray = str(Path(sys.executable).with_name("ray"))
    # one token for both, since a cluster may ask for it
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", uuid4().hex)
    # Ray's sockets need short paths
    folders = [Path(tempfile.mkdtemp(prefix="ray", dir="/tmp")) for _ in range(2)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    same = ["--block", "--num-cpus=1", "--disable-usage-stats", "--object-store-memory=100000000"]
    head = [ray, "start", "--head", f"--port={address.split(':')[1]}", "--include-dashboard=false"]
    node = [ray, "start", f"--address={address}"]
    nodes = []
    try:
        for start, folder in zip((head, node), folders):
            more = [f"--temp-dir={folder}", *same]
            with open(folder.with_suffix(".log"), "w") as log:
                nodes.append(subprocess.Popen([*start, *more], stdout=log, stderr=log, start_new_session=True))
            until(started(folder.with_suffix(".log")))
        yield address
    finally:
        for process in reversed(nodes):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
            folder.with_suffix(".log").unlink()


@pytest.mark.skipif(sys.platform != "linux", reason="Ray's nodes share a machine on Linux alone")
def test_two_nodes_make_what_one_makes(web, made, two_nodes):
    folder = web[0]
    run(folder, "two", "--ray_address", two_nodes)
    assert contents(folder / "two") == contents(made[0])
