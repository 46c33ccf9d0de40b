"""Two real processes on the CPU under shipped configurations of accelerate; DeepSpeed's are in tests/engines."""

from pathlib import Path

import pytest
import torch
from engine_run import parts
from engines_table import apart, losses, run, scores, weights

from openpali import Pali3ForConditionalGeneration

SHORT = {"max_steps": 7, "save_steps": 3, "eval_steps": 3, "save_total_limit": 3}


@pytest.fixture(scope="module")
def one_process(tmp_path_factory) -> Path:
    return run("pali3", None, tmp_path_factory.mktemp("one") / "run", **SHORT)


# the runs themselves assert the engine and the number of processes
@pytest.mark.parametrize("engine", ["ddp", "fsdp2"])
def test_killed_and_resumed_equals_one_process(engine, one_process, tmp_path):
    killed = run("pali3", engine, tmp_path / "run", kill_at=5, **SHORT)
    assert sorted(p.name for p in killed.glob("checkpoint-*")) == ["checkpoint-3"]
    assert set(losses(killed)) == {1, 2, 3, 4}
    run("pali3", engine, killed, **SHORT)
    assert set(losses(killed)) == set(range(1, 8))
    resumed = losses(killed)
    for step, values in losses(one_process).items():
        # halves of a batch are added up apart, and every step goes on from there
        assert resumed[step] == pytest.approx(values, rel=1e-4)
    assert [tokens for _, tokens in scores(killed)] == [tokens for _, tokens in scores(one_process)]
    for folder in (".", "checkpoint-6", "best"):
        # Adam makes large steps of gradients that are nearly zero
        assert apart(weights("pali3", one_process / folder), weights("pali3", killed / folder)) < 1e-3

    # the weights that were best, as any user would load them, score as they did in their shards
    assert loaded_score(killed) == pytest.approx(max(score for score, _ in scores(killed)), abs=1e-5)


def loaded_score(folder: Path) -> float:
    _, data, collate = parts("pali3")
    model = Pali3ForConditionalGeneration.from_pretrained(folder).eval()
    with torch.no_grad():
        return -model(**collate([data[i] for i in range(4)])).loss.item()


def test_weights_that_differ_are_seen(one_process):
    other = {name: tensor + 1 for name, tensor in weights("pali3", one_process).items()}
    assert apart(weights("pali3", one_process), other) == pytest.approx(1, abs=1e-5)
    assert all(torch.isfinite(tensor).all() for tensor in other.values())
