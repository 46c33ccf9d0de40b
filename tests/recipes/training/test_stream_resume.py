import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_stream_run import elsewhere, make_shards, tiny_stream_run

from openpali import Pali3ForConditionalGeneration
from openpali.data.files.config import ConfigError
from openpali.recipes.run.resume import last_checkpoint
from openpali.recipes.training.progress import read_log

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True, scope="module")
def module_of_other_processes():
    """Where they find the module that starts them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        yield


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("shards")
    make_shards(folder)
    return str(folder)


def curve(folder: Path) -> list[tuple]:
    rows = [row for row in read_log(folder / "logs.jsonl") if "loss" in row]
    return [(row["step"], row["loss"], row["grad_norm"]) for row in rows]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return Pali3ForConditionalGeneration.from_pretrained(folder).state_dict()


def check_same(folder: Path, whole: Path) -> None:
    assert curve(folder) == curve(whole)
    assert [row[0] for row in curve(folder)] == list(range(1, 10))
    mine, other = weights(folder), weights(whole)
    assert all(torch.equal(mine[name], other[name]) for name in other)


# 4 batches a step make 72 examples: beyond the first pass over 42 records
ACCUMULATION: dict[str, Any] = {"gradient_accumulation_steps": 4}


@pytest.mark.parametrize("options", [{}, ACCUMULATION | {"mixed": True}, {"dataloader_num_workers": 0}])
def test_stopped_by_kill_and_resumed_equals_uninterrupted(shards, tmp_path, options: dict[str, Any]):
    tiny_stream_run(shards, output_dir=str(tmp_path / "whole"), **options)
    assert len({loss for _, loss, _ in curve(tmp_path / "whole")}) == 9
    assert elsewhere(shards=shards, output_dir=str(tmp_path / "cut"), kill_at=6, **options) == [-signal.SIGKILL]
    assert [row[0] for row in curve(tmp_path / "cut")] == list(range(1, 6))
    tiny_stream_run(shards, output_dir=str(tmp_path / "cut"), **options)
    check_same(tmp_path / "cut", tmp_path / "whole")


def test_stopped_by_a_person_and_resumed_equals_uninterrupted(shards, tmp_path):
    tiny_stream_run(shards, output_dir=str(tmp_path / "whole"), **ACCUMULATION)
    options: dict[str, Any] = {"output_dir": str(tmp_path / "cut"), **ACCUMULATION}
    assert elsewhere(shards=shards, kill_at=6, kill_with=int(signal.SIGTERM), **options) == [130]
    tiny_stream_run(shards, **options)
    check_same(tmp_path / "cut", tmp_path / "whole")


def test_two_processes_read_apart_and_go_on(shards, tmp_path):
    options: dict[str, Any] = {"shards": shards, "processes": 2, "ddp_backend": "gloo", "dataloader_num_workers": 2}
    assert elsewhere(output_dir=str(tmp_path / "whole"), **options) == [0, 0]
    seen = [(tmp_path / "whole" / f"seen.{process}").read_text().split() for process in (0, 1)]
    # of the first pass: each process takes at most half of the 42 records, batch by batch of each worker
    assert not set(seen[0][:16]) & set(seen[1][:16])
    assert elsewhere(output_dir=str(tmp_path / "cut"), kill_at=6, **options) == [-signal.SIGKILL] * 2
    assert (last_checkpoint(tmp_path / "cut") or Path()).name == "checkpoint-4"
    assert elsewhere(output_dir=str(tmp_path / "cut"), **options) == [0, 0]
    check_same(tmp_path / "cut", tmp_path / "whole")


def test_a_position_that_does_not_fit_is_refused_unless_told(shards, tmp_path, capsys):
    options: dict[str, Any] = {"output_dir": str(tmp_path), "resume": "auto"}
    tiny_stream_run(shards, max_steps=4, **options)
    with pytest.raises(ConfigError, match="1 processes with 2 loader workers each, this run has 1 with 1: give them"):
        tiny_stream_run(shards, max_steps=6, dataloader_num_workers=1, **options)
    path = tmp_path / "checkpoint-4" / "data_position_0.json"
    kept = path.read_text()
    path.write_text(kept[:50])
    with pytest.raises(ConfigError, match="data_position_0.json cannot be read .*ignore_data_skip"):
        tiny_stream_run(shards, max_steps=6, **options)
    tiny_stream_run(shards, max_steps=6, ignore_data_skip=True, **options)
    assert "The data starts anew" in capsys.readouterr().out
    assert [row[0] for row in curve(tmp_path)] == list(range(1, 7))


def test_a_finished_run_on_a_stream_has_nothing_left_to_train(shards, tmp_path):
    tiny_stream_run(shards, output_dir=str(tmp_path), max_steps=4)
    before = curve(tmp_path)
    assert tiny_stream_run(shards, output_dir=str(tmp_path), max_steps=4).state.global_step == 4
    assert curve(tmp_path) == before


def test_a_stream_needs_steps(shards, tmp_path):
    with pytest.raises(ConfigError, match="max_steps is missing: a stream has no end"):
        tiny_stream_run(shards, output_dir=str(tmp_path), max_steps=-1)
