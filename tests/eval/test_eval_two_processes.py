"""An evaluation shared by two processes gives what one gives, also when it was killed in between."""

import json
import os
import shutil
import signal
import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from PIL import Image
from tiny_models import COLOURS, tiny_pali3

from openpali.eval.answering.prediction_file import PredictionFile
from openpali.eval.run import main

COUNT, LIMIT = 40, 25
BROKEN = (3, 18)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    model, processor = tiny_pali3()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Images of which two are broken, so that the next one stands in and comes twice."""
    folder, lines = tmp_path_factory.mktemp("records"), []
    for i in range(COUNT):
        Image.new("RGB", (24 + i, 24), COLOURS[i % len(COLOURS)]).save(folder / f"{i}.png")
        lines.append(json.dumps({"image": f"{i}.png", "prefix": "what is this dog"[: 3 + i % 13], "suffix": "dog"}))
    for i in BROKEN:
        (folder / f"{i}.png").write_bytes(b"no image")
    (folder / "my.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "my.jsonl"


def evaluate(rank: int, processes: int, port: int, arguments: list[str], killed_after: int | None) -> None:
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if processes > 1:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_PORT": port}
        os.environ |= {"MASTER_ADDR": "127.0.0.1"} | {key: str(value) for key, value in place.items()}
    if killed_after is not None:
        kill_after(killed_after)
    main(arguments)


def kill_after(count: int) -> None:
    """Let this process die by a signal in the middle of a line, after some predictions."""
    whole, written = PredictionFile.write, []

    def write(store: PredictionFile, row: dict) -> None:
        if len(written) == count:
            with store.own.open("a") as file:
                file.write('{"id": "torn')
            os.kill(os.getpid(), signal.SIGKILL)
        written.append(row["id"])
        whole(store, row)

    PredictionFile.write = write


def launch(processes: int, checkpoint: Path, records: Path, output: Path, *more: str, killed_after=None) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = ["--model", checkpoint, "--task", "plain", "--source", records, "--output", output]
    arguments = [
        str(word)
        for word in (
            *arguments,
            "--batch_size",
            "2",
            "--device",
            "cpu",
            "--task_options",
            "{max_new_tokens: 8}",
            *more,
        )
    ]
    # forked: each would otherwise import the libraries again
    mp.start_processes(evaluate, (processes, port, arguments, killed_after), processes, start_method="fork")  # pyright: ignore


def content(output: Path) -> tuple[list, dict]:
    rows = [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]
    metrics = json.loads((output / "metrics.json").read_text())
    del metrics["settings"]["arguments"]
    return rows, metrics


@pytest.fixture(scope="module")
def whole(checkpoint, records, tmp_path_factory):
    """What one process writes that is not interrupted."""
    output = tmp_path_factory.mktemp("whole")
    launch(1, checkpoint, records, output, "--limit", str(LIMIT))
    return content(output)


def test_two_processes_score_as_one(checkpoint, records, tmp_path, whole):
    """The limit counts different examples, also where an earlier one stands in for a broken one."""
    launch(2, checkpoint, records, tmp_path, "--limit", str(LIMIT))
    assert content(tmp_path) == whole
    assert len(whole[0]) == LIMIT
    assert len({row["text"] for row in whole[0]}) > 3
    assert not list(tmp_path.glob("*part*"))
    assert (tmp_path / "report.html").exists()


def test_a_killed_run_of_two_goes_on_in_any_number_of_processes(checkpoint, records, tmp_path, whole):
    with pytest.raises(mp.ProcessExitedException):
        launch(2, checkpoint, records, tmp_path / "1", "--limit", str(LIMIT), killed_after=5)
    kept = {}
    for path in (tmp_path / "1").glob("predictions*.jsonl"):
        lines = path.read_text().split("\n")
        rows = [json.loads(line) | {"text": "kept"} for line in lines[:-1]]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows) + lines[-1])
        kept[path.name] = [row["id"] for row in rows]
    # the first to be killed takes the other with it, perhaps before that has written anything
    assert set(kept) <= {"predictions.jsonl", "predictions.part-1.jsonl"}
    shutil.copytree(tmp_path / "1", tmp_path / "2")
    done = {one for ids in kept.values() for one in ids}
    assert 5 <= len(done) <= 10
    for processes in (1, 2):
        output = tmp_path / str(processes)
        launch(processes, checkpoint, records, output, "--limit", str(LIMIT))
        rows, _ = content(output)
        expected = ["kept" if row["id"] in done else row["text"] for row in whole[0]]
        assert [row["text"] for row in rows] == expected
        assert [row["id"] for row in rows] == [row["id"] for row in whole[0]]
        assert not list(output.glob("*part*"))
